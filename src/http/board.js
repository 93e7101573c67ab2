// Keeps the board live: an event says that something changed, the page says what. Without scripts a reload does the same.
"use strict";
if (document.getElementById("tasks") || document.getElementById("task")) {
  let due = null;
  const refresh = async () => {
    due = null;
    const answer = await fetch(location.pathname + location.search, { credentials: "same-origin" }).catch(() => null);
    if (!answer || !answer.ok) { return; }
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (!fresh.getElementById("tasks") && !fresh.getElementById("task")) { location.reload(); return; }
    // A focused button must not vanish under the user's hand.
    if (document.activeElement && document.activeElement.closest("#tasks, #lanes, #task")) { due = setTimeout(refresh, 2000); return; }
    for (const id of ["tasks", "summary", "lanes", "task"]) {
      const there = document.getElementById(id);
      const next = fresh.getElementById(id);
      if (there && next && there.innerHTML !== next.innerHTML) { there.replaceChildren(...next.childNodes); }
    }
  };
  new EventSource("/events").addEventListener("record", () => { due = due || setTimeout(refresh, 250); });
}
