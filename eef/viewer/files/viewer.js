// Keys, and following a run that is being executed. Every page works without this script.
"use strict";

const rows = () => [...document.querySelectorAll("[data-row]")].filter((row) => row.offsetParent);
let at = -1;

function select(index) {
  const all = rows();
  if (!all.length) return;
  at = Math.max(0, Math.min(index, all.length - 1));
  document.querySelectorAll(".at").forEach((row) => row.classList.remove("at"));
  const row = all[at];
  row.classList.add("at");
  row.scrollIntoView({ block: "nearest" });
  const link = row.matches("a") ? row : row.querySelector("a, summary");
  if (link) link.focus({ preventScroll: true });
}

function follow(rel) {
  const link = document.querySelector(`link[rel=${rel}]`);
  if (link) location.assign(link.href);
}

function openAll() {
  const all = [...document.querySelectorAll("main details")];
  const open = all.some((each) => !each.open);
  all.forEach((each) => { each.open = open; });
}

const KEYS = {
  j: () => select(at + 1),
  k: () => select(at - 1),
  n: () => follow("next"),
  p: () => follow("prev"),
  u: () => follow("up"),
  o: openAll,
  f: () => document.querySelector(".filters a[aria-current], .filters a, .tabs a")?.focus(),
  "/": () => (document.querySelector("input[type=search]") || {}).focus?.(),
  "?": () => document.getElementById("keys").showModal(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (event.target.matches("input, select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const inFilters = event.target.closest(".filters, .tabs");
  if (inFilters && (event.key === "ArrowRight" || event.key === "ArrowLeft")) {
    const links = [...inFilters.querySelectorAll("a")];
    const step = event.key === "ArrowRight" ? 1 : -1;
    links[(links.indexOf(event.target) + step + links.length) % links.length].focus();
    event.preventDefault();
    return;
  }
  if (KEYS[event.key] && !document.querySelector("dialog[open]")) {
    event.preventDefault();
    KEYS[event.key]();
  }
});

// what a page needs once it is there, and again once it was renewed
function prepare() {
  document.getElementById("open-keys").addEventListener("click", KEYS["?"]);
  document.getElementById("sort")?.addEventListener("change", (event) => event.target.form.submit());
  // parts that take longer than the page
  for (const part of document.querySelectorAll("[data-part]")) {
    fetch(part.dataset.part, { cache: "no-store" })
      .then(async (response) => {
        const text = await response.text();
        const loaded = new DOMParser().parseFromString(text, "text/html").querySelector(".token-part");
        if (loaded) part.replaceWith(loaded);
      })
      .catch(() => {}); // the link remains
  }
}

prepare();

// a run that is being executed: load the page again when the run has changed
async function look() {
  const body = document.body;
  try {
    const response = await fetch(body.dataset.poll, { cache: "no-store" });
    const { stamp } = await response.json();
    if (stamp !== body.dataset.stamp) await renew();
  } catch {
    // the server was stopped; look again later
  }
  if (body.dataset.stamp) setTimeout(look, 2000);
}

async function renew() {
  const text = await (await fetch(location.href, { cache: "no-store" })).text();
  const page = new DOMParser().parseFromString(text, "text/html");
  const typing = document.activeElement?.matches("input, select");
  if (typing) return;
  const open = new Set([...document.querySelectorAll("main details[open] > summary")].map((each) => each.textContent));
  const main = document.getElementById("content");
  main.replaceChildren(...page.getElementById("content").childNodes);
  main.querySelectorAll("details > summary").forEach((each) => { if (open.has(each.textContent)) each.parentNode.open = true; });
  document.querySelector(".top").replaceWith(page.querySelector(".top"));
  prepare();
  document.body.dataset.stamp = page.body.dataset.stamp || "";
}

if (document.body.dataset.stamp) setTimeout(look, 2000);
