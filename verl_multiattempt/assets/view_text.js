// Text of a model goes into the page here and nowhere else, and only as text nodes.
"use strict";

const INDEX = JSON.parse(document.getElementById("index").textContent);

const CLIP = 20000;         // characters of a text shown at first
const MORE = 100000;        // characters added by a click
const SLICE = 2000;         // characters added to the page at a time
const CONTROL_COST = 20;    // a control character is an element, which costs the browser more than a letter
// Characters that hide or reorder what they stand beside; with the u flag a surrogate matches only where it is alone.
const CONTROLS = new RegExp(
  "([\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u00ad\\u061c\\u200b\\u200e\\u200f\\u2028-\\u202e\\u2060-\\u206f" +
  "\\ufeff\\ufff9-\\ufffb\\ud800-\\udfff\\u{e0000}-\\u{e007f}])\\1*", "gu");

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  for (const child of children) if (child !== null && child !== undefined) node.append(child);
  return node;
}

/** Append text with its control characters drawn as U+XXXX; returns how many elements that made. */
function appendText(node, text) {
  let end = 0, made = 0;
  for (const match of text.matchAll(CONTROLS)) {
    if (match.index > end) node.append(text.slice(end, match.index));
    const code = match[1].codePointAt(0);
    const count = match[0].length / match[1].length;
    const name = "U+" + code.toString(16).toUpperCase().padStart(4, "0") + (count > 1 ? " ×" + count : "");
    node.append(element("span", {class: "control", title: "a control character, shown by its code"}, name));
    end = match.index + match[0].length;
    made += 1;
  }
  if (end < text.length) node.append(text.slice(end));
  return made;
}

/** One line of text without what would break the line or hide in it. */
function plain(text) {
  return text.replace(CONTROLS, "\ufffd");
}

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
