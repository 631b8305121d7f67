// Pages that are files: search, filters, sorting and comparing without a server. The query of the
// address is that of the server's pages; the data are scripts beside this one (static_index.py).
"use strict";
{
  const slug = document.currentScript.dataset.run;
  const query = new URLSearchParams(location.search);
  const loaded = new Map();
  window.eefFiles = (name, data) => loaded.set(name, data);

  const need = async (name) => {
    if (!loaded.has(name)) {
      await new Promise((resolve, reject) => {
        const script = document.createElement("script");
        script.src = `assets/${slug}.${name}.js`;
        script.addEventListener("load", resolve);
        script.addEventListener("error", reject);
        document.head.append(script);
      });
    }
    return loaded.get(name);
  };

  const element = (name, properties, ...content) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...content);
    return made;
  };
  const countOf = (number, thing) => `${number.toLocaleString("en-US")} ${thing}${number === 1 ? "" : "s"}`;

  // searches: see search.py
  const parseSearch = (text, fields) => {
    const words = [];
    const terms = [];
    for (let [, field, phrase, word] of text.matchAll(/(?:([\p{L}\p{N}_]+):)?(?:"([^"]*)"|(\S+))/gu)) {
      let value = phrase || word || "";
      if (field && !Object.hasOwn(fields, field.toLowerCase())) [field, value] = ["", `${field}:${value}`];
      const found = value.match(/[\p{L}\p{N}]+/gu) || [];
      if (!found.length) continue;
      const kinds = field ? fields[field.toLowerCase()] : 15;
      words.push(...found.map((each) => ({ word: fold(each), kinds, prefix: false })));
      terms.push(value);
    }
    if (words.length && /[\p{L}\p{N}]$/u.test(text)) words.at(-1).prefix = true;
    return { words, terms };
  };
  const fold = (word) => word.toLowerCase().normalize("NFD").replace(/\p{M}/gu, "").normalize("NFC");

  // the rollouts with a word, in some kinds of text
  const lookUp = async (index, { word, kinds, prefix }) => {
    const found = new Set();
    const begins = (each) => each === word || (prefix && word.length > 1 && each.startsWith(word));
    let at = index.words.findLastIndex((first) => first <= word);
    for (at = Math.max(at, 0); at < index.words.length; at += 1) {
      if (index.words[at] > word && !begins(index.words[at])) break;
      const shard = await need(`words.${at}`);
      for (let i = 0; i < shard.length; i += 2) {
        if (!begins(shard[i])) continue;
        let number = 0;
        for (const step of shard[i + 1].split(" ")) {
          number += parseInt(step, 36);
          if (number & kinds) found.add(Math.floor(number / 16));
        }
      }
    }
    return found;
  };

  // task → [number of rollouts, place of the first one] of those with all words
  const find = async (index, words) => {
    let found = null;
    for (const each of words) {
      const next = await lookUp(index, each);
      found = found ? new Set([...found].filter((item) => next.has(item))) : next;
    }
    const matches = new Map();
    let start = 0;
    index.counts.forEach((count, task) => {
      for (let at = 0; at < count; at += 1) {
        if (!found.has(start + at)) continue;
        const match = matches.get(task);
        if (match) match[0] += 1;
        else matches.set(task, [1, at]);
      }
      start += count;
    });
    return matches;
  };

  const highlight = (part, terms) => {
    const wanted = terms.map((term) => term.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|");
    if (!wanted) return;
    const walker = document.createTreeWalker(part, NodeFilter.SHOW_TEXT);
    const texts = [];
    while (walker.nextNode()) texts.push(walker.currentNode);
    for (const text of texts) {
      const pieces = text.data.split(new RegExp(`(${wanted})`, "giu"));
      if (pieces.length === 1) continue;
      text.replaceWith(...pieces.map((piece, i) => (i % 2 ? element("mark", {}, piece) : piece)));
    }
  };

  const drawTasks = async () => {
    const [filter, sort, q] = ["filter", "sort", "q"].map((key) => query.get(key) || "");
    const table = document.querySelector(".task-table tbody");
    if (!table) return;
    const index = await need("index");
    const [bit, about] = index.filters[filter] || index.filters[""];
    const search = parseSearch(q, index.fields);
    const matches = search.words.length ? await find(index, search.words) : null;
    let order = (index.sorts[sort] || index.sorts[""]).filter(
      (task) => index.masks[task] & bit && (!matches || matches.has(task)),
    );
    if (q.trim() && !matches) order = [];
    const pages = Math.max(1, Math.ceil(order.length / index.page));
    const page = Math.min(Math.max(1, parseInt(query.get("page"), 10) || 1), pages);
    const shown = order.slice(index.page * (page - 1), index.page * page);
    const rows = [];
    for (const task of shown) {
      const [markup, files] = (await need(`rows.${Math.floor(task / index.rows)}`))[task % index.rows];
      const row = element("template", { innerHTML: markup }).content.firstElementChild;
      highlight(row.querySelector(".instruction"), search.terms);
      if (matches) {
        const [count, first] = matches.get(task);
        const href = `${files[first]}?${new URLSearchParams({ q })}`;
        const link = element("a", { href }, countOf(count, "rollout"));
        row.querySelector("th").append(element("span", { className: "match" }, "found in ", link));
      }
      rows.push(row);
    }
    table.replaceChildren(...rows);
    document.querySelector(".scroll:has(.task-table)").hidden = !rows.length;
    document.querySelector(".nothing").hidden = rows.length > 0;
    let text = countOf(order.length, "task");
    if (filter && index.filters[filter]) text += `: ${about}`;
    if (q) text += `, found for “${q}”`;
    if (q.trim() && !search.words.length) text += ", which has no word to search for";
    if (pages > 1) text += `; page ${page} of ${pages}`;
    document.querySelector(".shown").textContent = `${text}.`;
    document.getElementById("q").value = q;
    document.getElementById("sort").value = Object.hasOwn(index.sorts, sort) ? sort : "";
    document.getElementById("filter").value = filter;
    const to = (changes) => {
      const given = Object.entries({ filter, sort, q, ...changes }).filter(([, value]) => value !== "");
      return `${location.pathname.split("/").at(-1)}${given.length ? "?" : ""}${new URLSearchParams(given)}`;
    };
    for (const link of document.querySelectorAll("[data-filter]")) {
      link.href = to({ filter: link.dataset.filter });
      if (link.dataset.filter === filter) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
    // neighbors, for links and keys
    document.querySelectorAll("link[rel=prev], link[rel=next]").forEach((each) => each.remove());
    const around = document.querySelector(".around");
    around.hidden = pages === 1;
    around.replaceChildren(
      ...[["prev", page - 1, "← previous"], ["next", page + 1, "next →"]].map(([rel, number, title]) => {
        if (number < 1 || number > pages) return element("span", { className: "off" }, title);
        document.head.append(element("link", { rel, href: to({ page: number }) }));
        return element("a", { rel, href: to({ page: number }) }, title);
      }),
    );
  };

  const drawComparison = () => {
    const data = JSON.parse(document.getElementById("rollouts").textContent);
    const names = ["a", "b"].map((side) => query.get(side));
    const heading = document.querySelector("#side-by-side h2");
    if (!names.every(Boolean)) return;
    if (!names.every((name) => Object.hasOwn(data, name))) {
      heading.textContent = "This pair is not in these files";
      document.querySelector(".pairs").replaceChildren();
      return;
    }
    const clone = (kind, number) => document.getElementById(`${kind}-${number}`).content.cloneNode(true);
    const [[left, a], [right, b]] = names.map((name) => data[name]);
    const same = (t) => a[t] && b[t] && a[t][3] === b[t][3] && a[t][2] === b[t][2];
    let parting = 0;
    while (same(parting)) parting += 1;
    const length = Math.max(a.length, b.length);
    const number = (t) => element("span", { className: "t" }, t);
    const content = [clone("head", left), clone("head", right)];
    for (let t = 0; t < length; t += 1) {
      const [one, other] = [a[t], b[t]];
      const equal = one && other && one[3] === other[3];
      if (t === parting) {
        const why = equal ? "the same observation, different actions"
          : one && other ? "different observations" : "one path ends";
        content.push(element("p", { className: "parting" }, element("span", {}, `the paths diverge at step ${t}: ${why}`)));
      }
      if (t < parting) {
        const texts = element("div", {}, clone("observation", one[0]), clone("thought", one[1]));
        if (one[1] !== other[1]) {
          texts.append(element("span", { className: "soft" }, "right:"), clone("thought", other[1]));
        }
        texts.append(clone("action", one[2]));
        content.push(element("div", { className: "both" }, number(t), texts));
        continue;
      }
      for (const [step, repeated] of [[one, false], [other, equal && t === parting]]) {
        const side = element("div", { className: "one" });
        if (step) {
          const texts = element("div", {});
          if (!repeated) texts.append(clone("observation", step[0]));
          texts.append(clone("thought", step[1]), clone("action", step[2]));
          side.append(number(t), texts);
        }
        content.push(side);
      }
    }
    content.push(clone("end", left), clone("end", right));
    const pairs = document.querySelector(".pairs");
    pairs.replaceChildren(...content);
    pairs.querySelectorAll(".both, .one:not(.end)").forEach((each) => { each.dataset.row = ""; });
    heading.textContent = parting === length ? "Both paths are the same"
      : parting === 0 ? "The paths differ from the first step"
        : `The first ${parting === 1 ? "step is" : `${parting} steps are`} the same`;
    ["a", "b"].forEach((side, i) => { document.querySelector(`select[name=${side}]`).value = names[i]; });
    document.title = document.title.replace(/^Compare .*? – /, `Compare ${names[0]} with ${names[1]} – `);
  };

  const view = document.body.className;
  if (view.includes("view-tasks") && location.search) drawTasks();
  if (view.includes("view-compare")) drawComparison();
  if (view.includes("view-trajectory") && query.get("q")) {
    const fields = { instruction: 1, observation: 2, thought: 4, action: 8 };
    highlight(document.getElementById("steps"), parseSearch(query.get("q"), fields).terms);
  }
}
