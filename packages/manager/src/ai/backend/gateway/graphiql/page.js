// Starts GraphiQL over the GraphQL endpoint beside this page, with the cookie that the page itself was served by.
"use strict";

const EXAMPLE = `# Ctrl-Space completes, Ctrl-Enter runs; the book at the left is the documentation.
{
  user { email role domain_name }
  compute_session_list(limit: 20, offset: 0, order: "-created_at") {
    items { name status image access_key created_at }
    total_count
  }
}
`;

async function ask(query) {
  const answer = await fetch("gql", {
    method: "POST",
    credentials: "same-origin",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(query),
  });
  if (answer.status === 401) {
    // The web session has ended: the same address asks to log in. What was being written is kept by the browser.
    location.reload();
  }
  return answer.json();
}

async function leave() {
  await fetch("/server/logout", { method: "POST", credentials: "same-origin" });
  location.reload();
}

// By this the editor's dialogs may add their one style of their own (see `get-nonce` in them).
globalThis.__webpack_nonce__ = document.querySelector("link[nonce]").nonce;

const { createElement } = React;
const button = createElement("button", { type: "button", className: "leave", onClick: leave }, "Log out");
ReactDOM.createRoot(document.getElementById("graphiql")).render(
  createElement(
    GraphiQL,
    { fetcher: ask, defaultQuery: EXAMPLE, isHeadersEditorEnabled: false },
    createElement(GraphiQL.Logo, null, button),
  ),
);
