// The handset page: polls state.json each second and draws what changed. All text goes in as text.
"use strict";

const MOST_HANDSETS = 40;
const MOST_LINES = 200;
const TICKS = {
  accepted: ["…", "accepted by the gateway"],
  sent: ["✓", "sent"],
  delivered: ["✓✓", "delivered"],
  failed: ["✗", "not delivered"],
  refused: ["⊘", "refused by the gateway"],
};
const $ = (id) => document.getElementById(id);
const faultsForm = $("faults");
const cards = new Map(); // handset number -> {card, chat, bubbles: Map of message id -> li, sender}
let epoch = null;
let version = 0;
let editing = false;

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function notice(text) {
  if ($("notice").textContent !== text) $("notice").textContent = text;
}

async function tell(path, body) {
  try {
    const answer = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    const said = await answer.json();
    notice(answer.ok ? "" : said.detail || `The gateway answered ${answer.status}.`);
    return answer.ok;
  } catch {
    notice("The gateway cannot be reached.");
    return false;
  }
}

function cardOf(number) {
  const known = cards.get(number);
  if (known) return known;
  const card = $("handset").content.firstElementChild.cloneNode(true);
  const [form, chat] = [card.querySelector("form"), card.querySelector("ol")];
  const made = { card, chat, bubbles: new Map(), sender: null };
  card.querySelector("h3").textContent = number;
  chat.setAttribute("aria-label", `Messages of ${number}`);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const text = form.elements.text.value;
    if (await tell("reply", { from: number, text })) form.reset();
  });
  form.querySelector("button[type=button]").addEventListener("click", () => {
    if (made.sender) tell("optout", { from: number, sender: made.sender });
    else notice("Nobody has written to this handset yet.");
  });
  cards.set(number, made);
  return made;
}

function fill(bubble, message) {
  const [tick, meaning] = TICKS[message.status];
  const parts = message.parts === 1 ? "1 part" : `${message.parts} parts`;
  const time = new Date(message.at).toLocaleTimeString();
  const small = element("small", `${message.typed ? "to " + message.to : message.from} · ${time} · ${parts} · `);
  const mark = element("span", tick, "tick");
  mark.setAttribute("aria-hidden", "true");
  const shown = message.detail ? ` ${meaning}: ${message.detail}` : ` ${meaning}`;
  small.append(mark, element("span", shown));
  bubble.className = message.typed ? `typed ${message.status}` : message.status;
  bubble.replaceChildren(element("p", message.text), small);
  if (message.reports.length) bubble.append(element("small", `reports: ${message.reports.join(", ")}`));
}

function draw(message) {
  const handset = cardOf(message.handset);
  if (!message.typed) handset.sender = message.from;
  let bubble = handset.bubbles.get(message.id);
  if (!bubble) {
    bubble = element("li");
    handset.bubbles.set(message.id, bubble);
    handset.chat.append(bubble);
    $("handsets").prepend(handset.card);
    for (const [id, old] of handset.bubbles) {
      if (handset.bubbles.size <= MOST_LINES) break;
      old.remove();
      handset.bubbles.delete(id);
    }
  }
  fill(bubble, message);
  handset.chat.scrollTop = handset.chat.scrollHeight;
}

// Prepending moves a card; the person typing in it must not lose the cursor.
function drawAll(messages) {
  const focused = document.activeElement;
  for (const message of messages) draw(message);
  if (focused && focused !== document.activeElement && focused.isConnected) focused.focus();
  while ($("handsets").children.length > MOST_HANDSETS) {
    const last = $("handsets").lastElementChild;
    cards.delete(last.querySelector("h3").textContent);
    last.remove();
  }
  $("nobody").hidden = cards.size > 0;
}

function drawFaults(faults) {
  if (editing) return;
  for (const [name, value] of Object.entries(faults)) {
    faultsForm.elements[name].value = value ?? "";
  }
}

function drawJournal(entries) {
  for (const entry of entries) {
    const line = element("li");
    line.append(element("time", new Date(entry.at).toLocaleTimeString()), ` ${entry.kind}: ${entry.text}`);
    $("journal").prepend(line);
  }
  while ($("journal").children.length > MOST_LINES) $("journal").lastElementChild.remove();
}

function drawLists(state) {
  for (const [name, words] of [["mode", state.modes], ["report_mode", state.report_modes]]) {
    faultsForm.elements[name].replaceChildren(
      ...words.map((word) => {
        const option = element("option", word.replaceAll("_", " "));
        option.value = word;
        return option;
      }),
    );
  }
  $("magic").replaceChildren(
    ...state.magic.map(({ ending, meaning }) => {
      const row = element("tr");
      row.append(element("td", ending), element("td", meaning));
      return row;
    }),
  );
}

async function poll() {
  const answer = await fetch(`state.json?since=${version}`);
  if (!answer.ok) throw new Error(`state.json answered ${answer.status}`);
  const state = await answer.json();
  if (state.epoch !== epoch) {
    const partial = version > 0;
    epoch = state.epoch;
    version = 0;
    cards.clear();
    $("handsets").replaceChildren();
    $("journal").replaceChildren();
    $("nobody").hidden = false;
    if (partial) return poll();
  }
  if (state.magic) drawLists(state);
  version = state.version;
  $("balance").textContent = state.balance;
  $("callback").textContent = state.callback || "nowhere";
  drawFaults(state.faults);
  drawAll(state.messages);
  drawJournal(state.journal);
}

async function keepPolling() {
  try {
    await poll();
    if ($("notice").dataset.lost) {
      delete $("notice").dataset.lost;
      notice("");
    }
  } catch {
    $("notice").dataset.lost = "yes";
    notice("The gateway cannot be reached; trying again.");
  }
  setTimeout(keepPolling, 1000);
}

faultsForm.addEventListener("input", () => { editing = true; });
faultsForm.addEventListener("submit", async (event) => {
  event.preventDefault();
  const wanted = {};
  for (const field of faultsForm.elements) {
    if (!field.name) continue;
    const number = field.value === "" ? null : Number(field.value);
    wanted[field.name] = field.type === "number" ? number : field.value;
  }
  if (await tell("faults", wanted)) editing = false;
});
$("reset").addEventListener("click", async () => {
  if (await tell("reset", {})) editing = false;
});
$("write").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const { from, text } = form.elements;
  if (await tell("reply", { from: from.value.trim(), text: text.value })) text.value = "";
});
keepPolling();
