// Text of a model goes into the page here and nowhere else, and only as text nodes.
"use strict";

const INDEX = JSON.parse(document.getElementById("index").textContent);

const CLIP = 20000;         // characters of a text shown at first
const MORE = 100000;        // characters added by a click
const SLICE = 2000;         // characters added to the page at a time
const CONTROL_COST = 20;    // a control character is an element, which costs the browser more than a letter
// Characters that are not seen or reorder what they stand beside (view_text.py lists them), and repetitions of each;
// with the u flag a surrogate matches only where it is alone.
const HIDDEN = new RegExp("([" + INDEX.hidden + "])\\1*", "gu");

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  for (const child of children) if (child !== null && child !== undefined) node.append(child);
  return node;
}

/** U+XXXX of a run of one character, and how long the run is. */
function codeName(run, character) {
  const count = run.length / character.length;
  return "U+" + character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0") + (count > 1 ? " ×" + number(count) : "");
}

/** Append text with the characters that are not seen drawn as U+XXXX; returns how many elements that made. */
function appendText(node, text) {
  let end = 0, made = 0;
  for (const match of text.matchAll(HIDDEN)) {
    if (match.index > end) node.append(text.slice(end, match.index));
    node.append(element("span", {class: "control", title: "a character that is not seen, shown by its code"}, codeName(...match)));
    end = match.index + match[0].length;
    made += 1;
  }
  if (end < text.length) node.append(text.slice(end));
  return made;
}

/** Text for where no elements can be: the characters that are not seen by their code. */
function plain(text) { return text.replace(HIDDEN, codeName); }

/**
 * Append styled pieces, cut at CLIP characters in all with a button for more.
 * @param {Node} node
 * @param {{text: string, tag?: string, kind?: string}[]} pieces  tag: the element around the piece; kind: its class
 */
function appendPieces(node, pieces) {
  const total = pieces.reduce((sum, piece) => sum + piece.text.length, 0);
  let piece = 0, offset = 0, shown = 0;
  const grow = (limit) => {
    while (piece < pieces.length && limit > 0) {
      const {text, tag, kind} = pieces[piece];
      const target = tag ? element(tag, {class: kind}) : node;
      while (offset < text.length && limit > 0) {
        let end = Math.min(text.length, offset + Math.min(limit, SLICE));
        if (end < text.length && isHighSurrogate(text.charCodeAt(end - 1))) end += 1;
        const made = appendText(target, text.slice(offset, end));
        limit -= Math.max(end - offset, CONTROL_COST * made);
        shown += end - offset;
        offset = end;
      }
      if (tag) node.append(target);
      if (offset >= text.length) { piece += 1; offset = 0; }
    }
    if (shown >= total) return;
    const button = element("button", {class: "more", type: "button"},
      "show more: " + number(shown) + " of " + number(total) + " characters shown");
    button.addEventListener("click", () => { button.remove(); grow(MORE); });
    node.append(button);
  };
  grow(CLIP);
}

function isHighSurrogate(code) { return code >= 0xd800 && code <= 0xdbff; }

function number(value, digits = 0) {
  if (typeof value !== "number") return String(value);
  return value.toLocaleString("en-US", {maximumFractionDigits: digits});
}

function percent(share) { return (100 * share).toFixed(1) + " %"; }

function plural(count, word) { return number(count) + " " + word + (count === 1 ? "" : "s"); }
