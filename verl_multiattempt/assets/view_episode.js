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

async function unpack(chunk) {
  if (!document.getElementById("chunk-" + chunk)) await whenParsed();
  if (!("DecompressionStream" in window)) throw new Error("this browser cannot unpack gzip; use one from 2023 or later");
  const packed = atob(document.getElementById("chunk-" + chunk).textContent.trim());
  const bytes = Uint8Array.from(packed, (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

async function loadEpisode(row) {
  const chunk = INDEX.rows.chunk[row];
  const content = chunks.get(chunk) || unpack(chunk);
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
  const facts = [plural(attempt.num_tokens, "token"), STOPS[attempt.stop] || attempt.stop];
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

/** The text of an attempt's tokens, the answer marked, what the verifier did not see (end of turn) set apart. */
function modelPieces(text, attempt) {
  const start = text.indexOf(attempt.text);
  if (start < 0) return [{text}];
  const body = attempt.text;
  const [from, to] = attempt.answer_span || [body.length, body.length];
  return [
    {text: text.slice(0, start), tag: "span", kind: "scaffold"},
    {text: body.slice(0, from)}, {text: body.slice(from, to), tag: "mark"}, {text: body.slice(to)},
    {text: text.slice(start + body.length), tag: "span", kind: "scaffold"},
  ].filter((piece) => piece.text);
}

/** The feedback's own text, the template's scaffold around it set apart. */
function feedbackPieces(text, feedback) {
  const start = feedback ? text.indexOf(feedback) : -1;
  if (start < 0) return [{text}];
  return [
    {text: text.slice(0, start).replace(/^\n+/, visibleBreaks), tag: "span", kind: "scaffold"}, {text: feedback},
    {text: text.slice(start + feedback.length), tag: "span", kind: "scaffold"},
  ].filter((piece) => piece.text);
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
    if (!matched) nodes.push(block("model", "model", modelPieces(attempt.text, attempt)));
    else if (attempt.num_tokens > 0) {
      while (rest.length && rest[0].kind !== "model") nodes.push(contextBlock(rest.shift(), null, episode));
      const segment = rest.shift();
      nodes.push(block("model", segmentLabel(segment, episode), modelPieces(segment.text, attempt)));
    }
    nodes.push(verdictLine(attempt));
    while (rest.length && rest[0].kind !== "model") nodes.push(contextBlock(rest.shift(), attempt.feedback, episode));
    if (!matched && attempt.feedback) nodes.push(block("feedback", "feedback", [{text: attempt.feedback}]));
  });
  return nodes;
}

function contextBlock(segment, feedback, episode) {
  const pieces = segment.kind === "feedback" ? feedbackPieces(segment.text, feedback)
    : [{text: visibleBreaks(segment.text), tag: "span", kind: "scaffold"}];
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
    plural(episode.num_context_tokens, "context token"),
  ];
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
  const legend = KINDS.map((kind) => element("span", {class: "key block " + kind}, kindLabel(kind, episode)));
  const identity = [episode.data_source, "index " + episode.index, "worker " + episode.worker].join(" · ");
  document.getElementById("episode").replaceChildren(
    back, title, element("div", {class: "facts"}, facts.join(" · ")),
    element("div", {class: "facts"}, plain(identity)),
    element("div", {class: "facts"}, "ground truth ", value(episode.ground_truth)),
    element("div", {class: "bar"}, ...modes, element("span", {class: "bar legend"}, ...legend)),
    ...(exact ? exactText(episode) : conversation(episode)));
}
