/** The login of an operator. */

import { useMutation } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import { post, queryClient, RequestFailed } from "./api/client";
import { Button, Field, FIELD, Notice, Panel } from "./ui/parts";

export function LoginPage() {
  const [user, setUser] = useState("");
  const [password, setPassword] = useState("");
  const login = useMutation({
    mutationFn: () => post("/api/session", { user, password }),
    onSuccess: () => {
      queryClient.clear();
      location.assign(nextPage(location.search));
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
          <Notice tone="bad" title={login.error instanceof RequestFailed && login.error.status === 401 ? "User or password is wrong." : login.error.message} live />
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

/** Where to go after the login: a page of this server, and no other. */
export function nextPage(search: string): string {
  const next = new URLSearchParams(search).get("next") ?? "";
  return /^\/[a-z]+$/.test(next) && next !== "/login" ? next : "/talk";
}
