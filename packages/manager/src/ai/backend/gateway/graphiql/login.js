// Logs in by session mode's own calls, and goes on to the page that takes the cookie.
"use strict";

const PAGE = "/func/admin/graphiql";
const form = document.getElementById("login");
const told = document.getElementById("told");
const code = document.getElementById("code");

async function call(path, body) {
  const answer = await fetch(path, {
    method: "POST",
    credentials: "same-origin",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body ?? {}),
  });
  const text = await answer.text();
  return text ? JSON.parse(text) : {};
}

function proceed() {
  if (location.pathname === PAGE) location.reload();
  else location.assign(PAGE);
}

async function logIn() {
  const given = Object.fromEntries([...new FormData(form)].filter(([, value]) => value !== ""));
  await call("/server/logout");
  const answer = await call("/server/login", given);
  if (answer.authenticated) {
    proceed();
    return;
  }
  const details = answer.data?.details ?? answer.msg ?? answer.title ?? "That did not work.";
  code.hidden = code.hidden && details !== "OTP not provided";
  told.textContent = details === "OTP not provided" ? "Give the code of your authenticator too." : details;
}

async function start() {
  const { authenticated } = await call("/server/login-check");
  if (authenticated && location.pathname !== PAGE) proceed();
  else if (authenticated) told.textContent = "You are logged in, but not as an administrator.";
}

function tell(error) {
  told.textContent = `The server can't be reached (${error.message}).`;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  told.textContent = "";
  logIn().catch(tell);
});
start().catch(tell);
