/** Requests to the server of this page. */

import { QueryClient, queryOptions } from "@tanstack/react-query";
import type { Session, Talk } from "./schema";

/** The server refused, or could not be asked (status 0). */
export class RequestFailed extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

async function request<Answer>(method: string, path: string, body?: unknown): Promise<Answer> {
  let response: Response;
  try {
    response = await fetch(path, {
      method,
      // By this the server knows a page of its own, and lets no login box of the browser come up.
      headers: { "X-Requested-With": "pxbridge", ...(body !== undefined && { "Content-Type": "application/json" }) },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    });
  } catch {
    throw new RequestFailed(0, "The server does not answer.");
  }
  const isJson = response.headers.get("Content-Type")?.startsWith("application/json") ?? false;
  const answer: unknown = isJson ? await response.json() : null;
  if (!response.ok) {
    const told = answer && typeof answer === "object" && "error" in answer ? String(answer.error) : "";
    throw new RequestFailed(response.status, told || `The server answered with status ${response.status}.`);
  }
  return answer as Answer;
}

export const post = <Answer = null>(path: string, body: unknown) => request<Answer>("POST", path, body);
export const remove = (path: string) => request<null>("DELETE", path);

/** Asks for JSON; null if the server has no such thing. */
async function getIfThere<Answer>(path: string): Promise<Answer | null> {
  try {
    return await request<Answer | null>("GET", path);
  } catch (error) {
    if (error instanceof RequestFailed && error.status === 404) return null;
    throw error;
  }
}

export const queryClient = new QueryClient({
  defaultOptions: { queries: { staleTime: 30_000, retry: (count, error) => error instanceof RequestFailed && error.status === 0 && count < 3 } },
});

const NO_LOGIN: Session = { login: false, user: null, version: "" };

/** Who is logged in. An engine that serves this page itself has no sessions. */
export const sessionQuery = queryOptions({
  queryKey: ["session"],
  queryFn: async () => (await getIfThere<Session>("/api/session")) ?? NO_LOGIN,
});

/** What an engine answers at `/voices`. */
export interface EngineVoices {
  voices: string[];
  default: string | null;
}

export type TalkedTo = { bridge: Talk } | { engine: EngineVoices | null };

/** What can be talked to. A page that comes from an engine itself has no bridge. */
export const talkQuery = queryOptions({
  queryKey: ["talk"],
  queryFn: async (): Promise<TalkedTo> => {
    const bridge = await getIfThere<Talk>("/api/talk");
    return bridge ? { bridge } : { engine: await getIfThere<EngineVoices>("/voices") };
  },
});
