// The screen's page: two sockets, one that tells and asks (control), one that shows (RFB, by noVNC). It connects by
// itself, and again whenever something broke. The server decides what passes; this page only shows it.
import RFB from "./novnc/core/rfb.js";

const by = (id) => document.getElementById(id);
const root = document.documentElement;
const here = new URL(".", location.href);
const socketUrl = (path) => {
  const url = new URL(path, here);
  url.protocol = "wss:";
  return url.href;
};

/** Waits between attempts, in ms: quick at first. */
const WAITS = [150, 300, 600, 1000, 2000, 3000];
/** Clipboard text at most, in UTF-16 units; the server takes a little more in bytes. */
const MAX_TEXT = 60000;

let telling = null; // what the server said last
let control = null; // the control socket
let rfb = null; // noVNC
let live = false; // a picture is there
let everLive = false;
let gone = ""; // why there is no sense in trying again
let showTries = 0;
let tellTries = 0;
let showTimer = 0;

if (window.top !== window) document.body.classList.add("embedded");

const wait = (tries) => WAITS[Math.min(tries, WAITS.length - 1)];

function ask(what) {
  if (control?.readyState === WebSocket.OPEN) control.send(JSON.stringify({ do: what }));
}

function tell() {
  control = new WebSocket(socketUrl("control"));
  control.onmessage = (event) => {
    telling = JSON.parse(event.data);
    tellTries = 0;
    if (telling.state === "running") show();
    paint();
  };
  control.onclose = async () => {
    telling = null;
    hide();
    paint();
    // A socket says nothing of why it was refused; the page's own address does.
    const page = await fetch(here, { credentials: "same-origin", cache: "no-store" }).catch(() => null);
    if (page && page.status === 403) {
      gone = "This link is no longer valid. Make a new one: berth screen " + document.body.dataset.id;
      paint();
      return;
    }
    setTimeout(tell, wait(tellTries++));
  };
}

function hide() {
  clearTimeout(showTimer);
  showTimer = 0;
  live = false;
  const old = rfb;
  rfb = null;
  old?.disconnect();
}

function show() {
  if (rfb || showTimer || !telling) return;
  const mine = new RFB(by("screen"), socketUrl("websockify?viewer=" + telling.viewer), { shared: true });
  rfb = mine;
  mine.viewOnly = telling.control !== "you";
  mine.scaleViewport = true;
  mine.showDotCursor = true;
  mine.background = "transparent";
  mine.qualityLevel = 7;
  mine.compressionLevel = 2;
  mine.addEventListener("connect", () => {
    live = true;
    everLive = true;
    showTries = 0;
    if (telling?.control === "you") mine.focus();
    paint();
  });
  mine.addEventListener("disconnect", () => {
    if (rfb !== mine) return;
    rfb = null;
    live = false;
    paint();
    showTimer = setTimeout(() => {
      showTimer = 0;
      if (telling?.state === "running") show();
    }, wait(showTries++));
  });
  mine.addEventListener("clipboard", (event) => {
    by("text").value = event.detail.text;
    if (document.hasFocus()) navigator.clipboard?.writeText(event.detail.text).catch(() => {});
  });
}

function phase() {
  const state = telling?.state;
  if (gone || state === "stopped" || state === "failed" || state === "removing" || (telling && state === null)) return "stopped";
  if (live && state === "running") return "live";
  return everLive ? "reconnecting" : "starting";
}

const WORDS = { starting: "Starting", live: "Live", reconnecting: "Reconnecting", stopped: "Stopped" };

function coverText() {
  const state = telling?.state;
  if (gone) return gone;
  if (telling && state === null) return "The instance is gone.";
  if (telling?.reason) return telling.reason;
  if (state === "stopped") return "The instance is stopped. The screen comes back when it is started.";
  if (state === "removing") return "The instance is being removed.";
  if (state === "running") return "The display is starting.";
  return telling ? "The screen appears as soon as the instance is ready." : "";
}

function noticeText() {
  if (!telling) return "";
  if (telling.refused) return telling.refused;
  if (telling.control === "other") return `${telling.by || "Somebody else"} has control. You are watching.`;
  return "";
}

function paint() {
  const now = phase();
  root.dataset.phase = now;
  root.dataset.control = telling?.control ?? "nobody";
  by("phase").textContent = WORDS[now];
  by("cover-title").textContent = telling?.state === "failed" ? "Failed" : WORDS[now];
  by("cover-text").textContent = coverText();
  if (telling?.name) {
    by("name").textContent = telling.name;
    document.title = `${telling.name} – ${WORDS[now]} – Berth`;
  }
  const others = (telling?.viewers ?? 1) - 1;
  by("others").textContent = others > 0 ? (others === 1 ? "1 other person watches" : `${others} other people watch`) : "";
  const you = telling?.control === "you";
  by("control").textContent = you ? "Give back control" : telling?.control === "other" ? "Take over" : "Take control";
  by("control").disabled = now !== "live" || !telling?.may_control;
  by("control").hidden = telling !== null && !telling.may_control;
  by("recreate").disabled = !telling?.state || telling.state === "removing" || !telling.may_control;
  by("recreate").hidden = telling !== null && !telling.may_control;
  by("send").disabled = !you || !live;
  const notice = noticeText();
  by("notice").textContent = notice;
  by("notice").hidden = notice === "";
  if (rfb && rfb.viewOnly === you) {
    rfb.viewOnly = !you;
    if (you) {
      rfb.focus();
      pasteFromHere();
    }
  }
}

function sendText(text) {
  if (rfb && live && telling?.control === "you" && text) rfb.clipboardPasteFrom(text.slice(0, MAX_TEXT));
}

/** What was copied on this machine goes along, where the browser lets a page read it without asking. */
let lastRead = "";
async function pasteFromHere() {
  try {
    const permission = await navigator.permissions.query({ name: "clipboard-read" });
    if (permission.state !== "granted") return;
    const text = await navigator.clipboard.readText();
    if (text && text !== lastRead && text !== by("text").value) sendText(text);
    lastRead = text;
  } catch {
    // Not every browser has it; the clipboard's panel always works.
  }
}

by("control").onclick = () => ask(telling?.control === "you" ? "release" : "take");
by("recreate").onclick = () => ask("recreate");
by("clipboard").onclick = () => {
  by("paste").hidden = !by("paste").hidden;
  by("clipboard").setAttribute("aria-expanded", String(!by("paste").hidden));
  if (!by("paste").hidden) by("text").focus();
};
by("send").onclick = () => {
  sendText(by("text").value);
  by("paste").hidden = true;
  by("clipboard").setAttribute("aria-expanded", "false");
  rfb?.focus();
};
by("copy").onclick = () => navigator.clipboard?.writeText(by("text").value).catch(() => by("text").select());
by("full").onclick = () => (document.fullscreenElement ? document.exitFullscreen() : root.requestFullscreen());
by("full").hidden = !document.fullscreenEnabled;
document.addEventListener("fullscreenchange", () => {
  by("full").textContent = document.fullscreenElement ? "Leave full page" : "Full page";
});
window.addEventListener("focus", () => telling?.control === "you" && pasteFromHere());

paint();
tell();
