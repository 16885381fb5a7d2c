"use strict";
// what the pages share
const byId = (id) => document.getElementById(id);

function element(tag, content, className) {
  const made = document.createElement(tag);
  if (content !== undefined) made.textContent = content;
  if (className) made.className = className;
  return made;
}
