/* The order of what a search finds (Sphinx reads this as its html_search_scorer): pages for users before those for people who change
   the code, and titles with the words that were asked for before texts that have them. */

"use strict";

var Scorer = {
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,

  score([page, title, , , found]) {
    const query = new URLSearchParams(window.location.search).get("q") ?? "";
    const words = query.toLowerCase().split(/\W+/).filter((word) => word.length > 2);
    const inTitle = words.filter((word) => title.toLowerCase().includes(word)).length;
    const background = /^(decisions|contracts|measurements)\/|^ARCHITECTURE$|^reference\/(changes|commands)$/.test(page);
    return found + (10 * inTitle) / Math.max(words.length, 1) - (background ? 20 : 0);
  },
};
