// What pages do beside what the server made of them. Every page works without it, but for what stands behind the # of an
// address, which only a script can read.
"use strict";

// What a link carries behind its #: a claim code, or NAME.SECRET. It leaves the address bar, and so the history, at once.
const carried = decodeURIComponent(location.hash.slice(1));
const fields = (name) => document.querySelectorAll(`[data-fragment="${name}"]`);
if (carried && document.querySelector("[data-fragment]")) {
  history.replaceState(null, "", location.pathname + location.search);
  for (const field of fields("code")) field.value = carried;
  for (const field of fields("link")) field.value = carried;
  for (const field of fields("member")) field.value = carried.split(".")[0];
}
for (const part of document.querySelectorAll("[data-hide-filled]")) {
  part.hidden = part.querySelector("input").value !== "";
}
// With the code in place, the next field is the one to type in.
const code = fields("code")[0];
if (code?.value) document.querySelector("#member").focus();
const link = fields("link")[0];
if (link?.value) document.querySelector("#passphrase").focus();

// Times in the reader's own zone.
const zone = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
for (const time of document.querySelectorAll("time[datetime]")) {
  const at = new Date(time.dateTime);
  if (Number.isNaN(at.valueOf())) continue;
  time.title = time.textContent;
  time.textContent = zone.format(at);
}

for (const button of document.querySelectorAll("button[data-copy]")) {
  const from = document.querySelector(button.dataset.copy);
  const parts = [...from.querySelectorAll("li")];
  const text = () => (parts.length ? parts.map((p) => p.textContent).join("\n") : from.textContent.trim());
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    const word = button.textContent;
    try {
      await navigator.clipboard.writeText(text());
      button.textContent = "Copied";
    } catch {
      button.textContent = "Select and copy it yourself";
    }
    setTimeout(() => (button.textContent = word), 2000);
  });
}

// A form that is on its way is not sent twice.
for (const form of document.forms) {
  form.addEventListener("submit", (event) => {
    if (form.dataset.sent) return event.preventDefault();
    form.dataset.sent = "1";
    form.querySelector("button[type=submit]")?.setAttribute("aria-busy", "true");
  });
}
// Back to a page that the browser kept: it may be sent again.
addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});
