// What scrolls sideways can be scrolled with the keyboard, and the search does not fetch pages where a browser refuses that.

"use strict";

// Opened from the disk, pages may not read each other: results are shown without a part of their text.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

function makeScrollableFocusable() {
  for (const area of document.querySelectorAll("article pre, article .table-wrapper, article p:has(> img)")) {
    if (area.scrollWidth > area.clientWidth) area.tabIndex = 0;
    else area.removeAttribute("tabindex");
  }
}

addEventListener("load", makeScrollableFocusable);
addEventListener("resize", makeScrollableFocusable);
