/* What every page does beside its own work, in two things that Streamlit leaves open.

   A server that went away: Streamlit greys the page with a dialog that asks whether Streamlit is still running. What is
   shown is still right, so the dialog is closed, and a strip at the lower edge says what happened and what to do.

   A panel behind a button: Streamlit puts it at the end of the page, where the Tab key comes last. It takes the focus
   when it opens, so that Tab goes into it, and gives it back to its button when it closes.

   Both go by what Streamlit says for tests (data-testid, data-test-connection-state). Where a version no longer says it,
   its own dialog is seen again, and a panel is reached last. */

const PATIENCE = 1500; // milliseconds without a server before it is said: a short break heals by itself

function watchPage(app, lost) {
  const connected = () => app.dataset.testConnectionState === "CONNECTED";
  let timer = 0;
  let opener = null; // the button of the open panel
  let panel = null;

  function lookAtServer() {
    if (connected()) {
      clearTimeout(timer);
      timer = 0;
      lost.hidden = true;
      return;
    }
    timer ||= setTimeout(() => (lost.hidden = connected()), PATIENCE);
    for (const dialog of document.querySelectorAll("body > [data-testid=stDialog]")) {
      const title = dialog.querySelector("[role=dialog] h2")?.textContent ?? "";
      if (/connection error/i.test(title)) dialog.querySelector("[aria-label=Close]")?.click();
    }
  }

  function lookAtPanels() {
    const portal = document.getElementById("stFloatingOverlayPortal");
    if (portal) observer.observe(portal, { childList: true, subtree: true }); // again and again is once
    const now = portal?.querySelector("[data-testid=stPopoverBody]") ?? null;
    if (now === panel) return;
    panel = now;
    if (now) {
      opener = document.querySelector("[data-testid=stPopoverButton][aria-expanded=true]");
      now.tabIndex = -1; // by us alone: Tab does not stop at the panel itself
      if (!now.contains(document.activeElement)) now.focus({ preventScroll: true });
    } else if (document.activeElement === document.body && opener?.isConnected) {
      opener.focus({ preventScroll: true });
    }
  }

  const observer = new MutationObserver(() => {
    lookAtServer();
    lookAtPanels();
  });
  observer.observe(app, { attributes: true, attributeFilter: ["data-test-connection-state"] });
  observer.observe(document.body, { childList: true });
  lookAtServer();
  lookAtPanels();
  return () => {
    clearTimeout(timer);
    observer.disconnect();
    lost.remove();
  };
}

export default function ({ data: [sentence], parentElement }) {
  const root = parentElement.querySelector(".darts-frame");
  const app = root.closest("[data-testid=stApp]");
  if (app && !root.end) {
    const lost = document.createElement("div");
    Object.assign(lost, { className: "darts-lost", role: "alert", hidden: true, textContent: sentence });
    document.body.append(lost);
    root.end = watchPage(app, lost);
  }
  return () => {
    if (!root.isConnected) root.end?.();
  };
}
