// One episode: the conversation, or the exact text of its tokens.

const GLYPH = {CORRECT: "✓", INCORRECT: "✗", NO_ANSWER: "–", TIMEOUT: "T", ERROR: "!"};
const STOPS = {
  end_of_turn: "the model ended its turn", answer: "ended at its answer", attempt_limit: "cut by the attempt's token limit",
  conversation_limit: "cut by the conversation's token limit", control_token: "ended at a control token it wrote",
  empty: "the engine returned no token",
};
const KINDS = ["model", "feedback", "inserted", "prompt"];
const chunks = new Map();
const KEPT_CHUNKS = 6;
let exact = false;

function whenParsed() {
  if (document.readyState !== "loading") return Promise.resolve();
  return new Promise((resolve) => document.addEventListener("DOMContentLoaded", resolve, {once: true}));
}

/** The list that is packed in the script element of this id. */
async function unpack(id) {
  if (!document.getElementById(id)) await whenParsed();
  if (!("DecompressionStream" in window)) throw new Error("this browser cannot unpack gzip; use one from 2023 or later");
  const packed = atob(document.getElementById(id).textContent.trim());
  const bytes = Uint8Array.from(packed, (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

async function loadEpisode(row) {
  const chunk = INDEX.rows.chunk[row];
  const content = chunks.get(chunk) || unpack("chunk-" + chunk);
  chunks.delete(chunk);
  chunks.set(chunk, content);
  if (chunks.size > KEPT_CHUNKS) chunks.delete(chunks.keys().next().value);
  return (await content)[INDEX.rows.offset[row]];
}

function block(kind, label, pieces) {
  const text = element("div", {class: "text", dir: "auto"});
  appendPieces(text, pieces);
  return element("div", {class: "block " + kind}, element("div", {class: "label"}, label), text);
}

function value(content) {
  const node = element("span", {class: "value"});
  appendPieces(node, [{text: typeof content === "string" ? content : JSON.stringify(content)}]);
  return node;
}

/** The text of a message; verl's multi-modal contents are lists of parts. */
function messageText(content) { return typeof content === "string" ? content : JSON.stringify(content, null, 1); }

function attemptHead(attempt, index, episode) {
  const facts = [STOPS[attempt.stop] || attempt.stop];
  // A server that only gives text may not say how many tokens it was.
  if (attempt.num_tokens || !attempt.text) facts.unshift(plural(attempt.num_tokens, "token"));
  if (typeof attempt.logprob_mean === "number") facts.push("mean log-prob " + attempt.logprob_mean.toFixed(3));
  if (typeof attempt.generate_s === "number") facts.push("generated in " + attempt.generate_s.toFixed(2) + " s");
  return element("div", {class: "attempt"}, element("h3", {}, `Attempt ${index + 1} of ${episode.max_attempts}`),
    element("span", {class: "facts"}, facts.join(" · ")));
}

function verdictLine(attempt) {
  const line = element("div", {class: "verdict"},
    element("span", {class: "chip " + attempt.outcome}, (GLYPH[attempt.outcome] || "?") + " " + attempt.outcome.replace("_", " ")));
  if (attempt.answer !== null) line.append(element("span", {}, "answer ", value(attempt.answer)));
  if (attempt.normal_answer !== null && attempt.normal_answer !== attempt.answer) {
    line.append(element("span", {class: "facts"}, "read as ", value(attempt.normal_answer)));
  }
  if (attempt.repeats) line.append(element("span", {class: "warn"}, "repeats an earlier answer"));
  if (attempt.detail) line.append(element("span", {class: "facts"}, "detail: ", value(attempt.detail)));
  if (attempt.fault) line.append(element("span", {class: "warn"}, "verifier fault: ", value(attempt.fault)));
  if (attempt.verifier_feedback) line.append(element("span", {class: "facts"}, "verifier's feedback: ", value(attempt.verifier_feedback)));
  line.append(element("span", {class: "facts"}, "verified in " + (1000 * attempt.seconds).toFixed(1) + " ms"));
  return line;
}

function scaffold(text) { return {text, tag: "span", kind: "scaffold"}; }

/** The text of an attempt's tokens, the answer marked, what the verifier did not see (end of turn, marks of thinking) set apart. */
function modelPieces(text, attempt) {
  const body = attempt.text, runs = commonRuns(text, body);
  if (!runs) return answerMarked(text, attempt.answer);
  const [from, to] = attempt.answer_span || [body.length, body.length];
  const pieces = [];
  let end = 0;
  for (const {at, start, stop} of runs) {
    const [first, last] = [from, to].map((place) => Math.min(Math.max(place, start), stop));
    pieces.push(scaffold(text.slice(end, at)), {text: body.slice(start, first)},
      {text: body.slice(first, last), tag: "mark"}, {text: body.slice(last, stop)});
    end = at + stop - start;
  }
  pieces.push(scaffold(text.slice(end)));
  return pieces.filter((piece) => piece.text);
}

const MAX_CELLS = 1e7;   // some 0.1 s
const FAR = 1e9;

/**
 * Where `body` is in `text`, which is body with special tokens in it: runs that are the same in both, from `at` in text
 * and from `start` to `stop` in body. Of all ways to find it the one with the fewest gaps, those that look like tokens
 * counting half. Null where it is not there, or too much is in between.
 */
function commonRuns(text, body) {
  const whole = text.indexOf(body);
  if (whole >= 0) return [{at: whole, start: 0, stop: body.length}];
  const width = text.length - body.length + 1;
  if (width < 1 || width > 65536 || width * body.length > MAX_CELLS) return null;
  const came = new Uint16Array(width * body.length);
  const cost = new Int32Array(width).fill(FAR);   // by how far text is ahead of body
  cost[0] = 0;
  for (let i = 0; i < body.length; i += 1) matchCharacter(text, body.charCodeAt(i), i, cost, came.subarray(i * width, (i + 1) * width));
  let ahead = cost.indexOf(cost.reduce((least, one) => Math.min(least, one)));
  if (cost[ahead] >= FAR) return null;
  const runs = [];
  for (let i = body.length - 1, stop = body.length; i >= 0; i -= 1) {
    const from = came[i * width + ahead];
    if (from !== ahead || i === 0) { runs.unshift({at: i + ahead, start: i, stop}); stop = i; }
    ahead = from;
  }
  return runs;
}

/** One step of it: each cost becomes that of having found one character more, and `came` says how far ahead text was before. */
function matchCharacter(text, code, i, cost, came) {
  let least = FAR, leastAt = 0, opened = FAR, openedAt = 0;
  for (let ahead = 0; ahead < cost.length; ahead += 1) {
    const before = cost[ahead];
    let best = FAR, from = ahead;
    if (text.charCodeAt(i + ahead) === code) {
      best = before;
      if (least + 2 < best) { best = least + 2; from = leastAt; }
      if (opened + 1 < best && ">]".includes(text[i + ahead - 1])) { best = opened + 1; from = openedAt; }
    }
    cost[ahead] = best;
    came[ahead] = from;
    if (before < least) { least = before; leastAt = ahead; }
    if (before < opened && "<[".includes(text[i + ahead])) { opened = before; openedAt = ahead; }
  }
}

/** The last box with the answer marked, or else its last occurrence. */
function answerMarked(text, answer) {
  const box = answer ? text.lastIndexOf("\\boxed{" + answer) : -1;
  const from = box >= 0 ? box + "\\boxed{".length : answer ? text.lastIndexOf(answer) : -1;
  if (from < 0) return [{text}];
  const to = from + answer.length;
  return [{text: text.slice(0, from)}, {text: answer, tag: "mark"}, {text: text.slice(to)}].filter((piece) => piece.text);
}

/** The feedback's own text, the template's scaffold around it set apart. */
function feedbackPieces(text, feedback) {
  const said = feedback ? feedback.trim() : "";   // templates strip messages
  const start = said ? text.indexOf(said) : -1;
  if (start < 0) return [{text}];
  return [scaffold(text.slice(0, start).replace(/^\n+/, visibleBreaks)), {text: said}, scaffold(text.slice(start + said.length))]
    .filter((piece) => piece.text);
}

/** A kind of tokens in words; in validation nothing is trained, so nothing is said of it. */
function kindLabel(kind, episode) {
  return episode.validate ? kind : kind + (kind === "model" ? ", trained" : ", not trained");
}

function segmentLabel(segment, episode) { return kindLabel(segment.kind, episode) + " · " + plural(segment.num_tokens, "token"); }

/**
 * Attempts in their order, each with the segments that follow it up to the next. The k-th model segment belongs to the
 * k-th attempt that has tokens; where the numbers disagree the attempts are drawn from their own text.
 */
function conversation(episode) {
  const nodes = episode.messages.map((message) =>
    block("prompt", `${plain(message.role)} · ${kindLabel("prompt", episode)}`, [{text: messageText(message.content)}]));
  const written = episode.attempts.filter((attempt) => attempt.num_tokens > 0);
  const model = episode.segments.filter((segment) => segment.kind === "model");
  const matched = written.length === model.length && model.length > 0;
  const rest = matched ? episode.segments.filter((segment) => segment.kind !== "prompt") : [];
  episode.attempts.forEach((attempt, index) => {
    nodes.push(attemptHead(attempt, index, episode));
    if (!matched) nodes.push(block("model", kindLabel("model", episode), modelPieces(attempt.text, attempt)));
    else if (attempt.num_tokens > 0) {
      while (rest.length && rest[0].kind !== "model") nodes.push(contextBlock(rest.shift(), null, episode));
      const segment = rest.shift();
      nodes.push(block("model", segmentLabel(segment, episode), modelPieces(segment.text, attempt)));
    }
    nodes.push(verdictLine(attempt));
    while (rest.length && rest[0].kind !== "model") nodes.push(contextBlock(rest.shift(), attempt.feedback, episode));
    if (!matched && attempt.feedback) nodes.push(block("feedback", kindLabel("feedback", episode), [{text: attempt.feedback}]));
  });
  return nodes;
}

function contextBlock(segment, feedback, episode) {
  const pieces = segment.kind === "feedback" ? feedbackPieces(segment.text, feedback)
    : [scaffold(visibleBreaks(segment.text))];
  return block(segment.kind, segmentLabel(segment, episode), pieces);
}

function visibleBreaks(text) { return text.trim() ? text : text.replaceAll("\n", "↵").replaceAll(" ", "␣"); }

function exactText(episode) {
  const node = element("div", {class: "text exact", dir: "auto"});
  if (!episode.segments.length) node.append("The log has no token segments for this episode.");
  for (const segment of episode.segments) {
    node.append(element("b", {class: "tag " + segment.kind}, segment.kind + " " + number(segment.num_tokens)));
    // In what the template adds, a line break is easily missed.
    const text = ["inserted", "feedback"].includes(segment.kind) ? segment.text.replaceAll("\n", "↵\n") : segment.text;
    appendPieces(node, [{text, tag: "span", kind: segment.kind}]);
  }
  return [node];
}

function ending(episode) {
  const last = episode.attempts[episode.attempts.length - 1];
  if (last && last.outcome === "CORRECT") return `solved at attempt ${episode.attempts.length} of ${episode.max_attempts}`;
  const used = `not solved, ${episode.attempts.length} of ${plural(episode.max_attempts, "attempt")} used`;
  return episode.truncated ? used + ", truncated by the conversation's limit" : used;
}

function drawEpisode(episode) {
  const facts = [
    (episode.validate ? "validation" : "training") + ", step " + number(episode.step), "rollout " + episode.rollout,
    ending(episode), "reward " + number(episode.reward, 3), number(episode.seconds, 2) + " s",
  ];
  if (episode.segments.length) facts.push(plural(episode.num_context_tokens, "context token"));
  const started = new Date(1000 * episode.started_at);
  if (!Number.isNaN(started.getTime())) facts.push("started " + started.toISOString().slice(0, 19).replace("T", " ") + " UTC");
  const title = element("h2");
  appendPieces(title, [{text: String(episode.question_id)}]);
  const back = element("button", {id: "back", type: "button"}, "← list");
  back.addEventListener("click", showList);
  const modes = [["Conversation", false], ["Exact text (x)", true]].map(([label, mode]) => {
    const button = element("button", {type: "button", "aria-pressed": String(exact === mode)}, label);
    button.addEventListener("click", () => setExact(mode));
    return button;
  });
  const legend = KINDS.filter((kind) => kind !== "inserted" || episode.segments.length).map((kind) => element("span", {class: "key block " + kind}, kindLabel(kind, episode)));
  const identity = [episode.data_source, "index " + episode.index, "worker " + episode.worker].join(" · ");
  document.getElementById("episode").replaceChildren(
    back, title, element("div", {class: "facts"}, facts.join(" · ")),
    element("div", {class: "facts"}, plain(identity)),
    element("div", {class: "facts"}, "ground truth ", value(episode.ground_truth)),
    element("div", {class: "bar"}, ...modes, element("span", {class: "bar legend"}, ...legend)),
    ...(exact ? exactText(episode) : conversation(episode)));
}
