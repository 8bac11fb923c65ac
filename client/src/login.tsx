/** The login of an operator. */

import { useMutation } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import { useLocation } from "wouter";
import { post, queryClient, RequestFailed, sessionQuery } from "./api/client";
import { useTalkActive } from "./talk/active";
import { Button, Field, FIELD, Notice, Panel } from "./ui/parts";

export function LoginPage() {
  const [user, setUser] = useState("");
  const [password, setPassword] = useState("");
  const isTalking = useTalkActive();
  const [, navigate] = useLocation();
  const login = useMutation({
    mutationFn: () => post("/api/session", { user, password }),
    onSuccess: async () => {
      const next = nextPage(location.search);
      if (isTalking) {
        // Another document would end the talk.
        await queryClient.refetchQueries(sessionQuery);
        navigate(next);
      } else {
        queryClient.clear();
        location.assign(next);
      }
    },
  });
  const submit = (event: FormEvent) => {
    event.preventDefault();
    login.mutate();
  };
  return (
    <Panel className="mx-auto mt-8 max-w-sm">
      <h1 className="mb-4 text-xl font-semibold">Log in</h1>
      <form onSubmit={submit} className="space-y-4">
        {login.isError && (
          <Notice tone="bad" title={whyNot(login.error)} live />
        )}
        <Field label="User">
          {(id) => (
            <input id={id} className={`${FIELD} h-11`} value={user} onChange={(event) => setUser(event.target.value)} autoComplete="username" autoCapitalize="none" required />
          )}
        </Field>
        <Field label="Password">
          {(id) => (
            <input
              id={id}
              type="password"
              className={`${FIELD} h-11`}
              value={password}
              onChange={(event) => setPassword(event.target.value)}
              autoComplete="current-password"
              required
            />
          )}
        </Field>
        <Button look="main" type="submit" className="w-full" disabled={login.isPending}>
          {login.isPending ? "Logging in…" : "Log in"}
        </Button>
      </form>
    </Panel>
  );
}

/** Why a login failed, for people. */
export function whyNot(error: Error): string {
  const status = error instanceof RequestFailed ? error.status : 0;
  if (status === 401) return "User or password is wrong.";
  if (status === 429) return "User or password is wrong, and it was tried very often. Wait for ten seconds.";
  return error.message;
}

/** Where to go after the login: a page of this server, and no other. */
export function nextPage(search: string): string {
  const next = new URLSearchParams(search).get("next") ?? "";
  return /^\/[a-z]+$/.test(next) && next !== "/login" ? next : "/talk";
}
