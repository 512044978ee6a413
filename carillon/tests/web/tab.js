// The demo page in a real browser, as a person sees it. Knows nothing of what the tests are about.

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { waitFor } from "./server.js";

const CHROMIUM = process.env.CHROMIUM || "/usr/bin/chromium";
const SCREENSHOTS = process.env.SCREENSHOTS || join(import.meta.dirname, "../../../target/screenshots");
export const SHOWN_WITHIN_MS = 15_000;
/** The longest wait of the backoff, and time to start on a busy machine. */
export const BACK_WITHIN_MS = 60_000;

export const DESKTOP = { viewport: { width: 1280, height: 860 } };
export const PHONE = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };

export async function launch() {
  mkdirSync(SCREENSHOTS, { recursive: true });
  return chromium.launch({
    executablePath: CHROMIUM,
    args: [
      "--headless=new",
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
}

/** One person at one screen: a browser context of their own, with the page open and live. */
export class Tab {
  /** What came over the page's WebSockets, and what it sent, in order. */
  received = [];
  sent = [];
  /** What it sent by HTTP. */
  posted = [];
  /** Anything that must not happen in a page: exceptions, and what its content security policy refused. */
  complaints = [];

  /** With `hasClock`, `page.clock` can have time pass in this tab. */
  static async open(browser, link, { hasClock, ...options } = DESKTOP) {
    const tab = new Tab();
    tab.context = await browser.newContext({ colorScheme: "light", locale: "en-GB", ...options });
    tab.page = await tab.context.newPage();
    tab.page.setDefaultTimeout(SHOWN_WITHIN_MS);
    tab.page.on("pageerror", (error) => tab.complaints.push(String(error)));
    tab.page.on("console", (entry) => /content security policy/i.test(entry.text()) && tab.complaints.push(entry.text()));
    tab.page.on("websocket", (socket) => {
      socket.on("framereceived", ({ payload }) => tab.received.push(JSON.parse(payload)));
      socket.on("framesent", ({ payload }) => tab.sent.push(JSON.parse(payload)));
    });
    tab.page.on("request", (request) => request.method() === "POST" && tab.posted.push(request.postDataJSON()));
    if (hasClock) await tab.page.clock.install();
    await tab.page.goto(link);
    return tab;
  }

  async live(withinMs = SHOWN_WITHIN_MS) {
    await this.page.waitForSelector('body[data-state="live"]', { timeout: withinMs });
    return this;
  }

  async type(text) {
    await this.page.fill("#text", text);
    await this.page.press("#text", "Enter");
  }

  /** The log as a person reads it, dividers left out. */
  async log() {
    return this.page.$$eval("#log .message", (items) =>
      items.map((item) => ({
        offset: Number(item.dataset.offset),
        own: item.classList.contains("own"),
        // A text on its way to the server, or from it, is not there yet.
        text: item.matches(".pending") ? null : item.querySelector(".bubble").textContent,
      })),
    );
  }

  /** The log, once at least this many messages are shown and none is on its way. */
  async logOf(count) {
    let log = [];
    const find = async () => {
      log = await this.log();
      return log.length >= count && log.every(({ text }) => text !== null) && log;
    };
    return waitFor(find, BACK_WITHIN_MS, () => `${count} messages; shown: ${JSON.stringify(log)}`);
  }

  /**
   * Nothing of the page runs any more, as in a tab that the browser has frozen, until the function that this returns is called. (Chromium
   * freezes no tab that can be seen, and says nothing about it; a debugger stops any.)
   */
  async freeze() {
    const debug = await this.context.newCDPSession(this.page);
    await debug.send("Debugger.enable");
    const stopped = new Promise((resolve) => debug.once("Debugger.paused", resolve));
    await debug.send("Debugger.pause");
    // It stops at the next thing that runs; this is one.
    void this.page.evaluate("0").catch(() => {});
    await stopped;
    return async () => {
      await debug.send("Debugger.disable");
      await this.page.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));
    };
  }

  /** What people who can't see it well, or use no mouse, would stumble over, by the rules of axe. */
  async barriers() {
    // Not as a script of the page, which its content security policy refuses.
    const { source } = createRequire(import.meta.url)("axe-core");
    await this.page.evaluate(source);
    // A link to a room that is scrolled out of a phone's row of rooms is taken for a skip link; the real one has a test of its own.
    const { violations } = await this.page.evaluate(() => globalThis.axe.run(document, { rules: { "skip-link": { enabled: false } } }));
    return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html, failureSummary }) => `${html} ${failureSummary}`).join("; ")}`);
  }

  async missed() {
    return (await this.page.waitForSelector("#log .missed")).textContent();
  }

  async screenshot(name, options = {}) {
    await this.page.mouse.move(0, 0);
    await this.page.screenshot({ path: join(SCREENSHOTS, `${name}.png`), animations: "disabled", ...options });
  }

  async close() {
    assert.deepEqual(this.complaints, []);
    await this.context.close();
  }
}

export const texts = (log) => log.map(({ offset, text }) => `#${offset} ${text}`);
