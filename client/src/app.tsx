/** The pages, and what stands around each of them. */

import { useQuery } from "@tanstack/react-query";
import { lazy, type ReactNode, Suspense, useEffect } from "react";
import { Link, Redirect, Route, Switch, useLocation } from "wouter";
import { queryClient, remove, sessionQuery } from "./api/client";
import { Broken } from "./broken";
import { LoginPage } from "./login";
import { useTalkActive } from "./talk/active";
import { Button, classes, Notice } from "./ui/parts";
import { type Theme, useTheme } from "./ui/theme";

const TalkPage = lazy(() => import("./talk/talk-page"));
const LivePage = lazy(() => import("./live/live-page"));

/** The second is all that an engine has which serves this page itself. */
const TALK_PATHS = /^\/(talk)?$/;

export function App() {
  // A talk that goes on keeps its page, and with it its "Hang up", when the login is over.
  const isTalking = useTalkActive();
  const [path] = useLocation();
  return (
    <div className="mx-auto flex min-h-dvh max-w-6xl flex-col px-3 sm:px-6">
      <Header />
      <main className="flex-1 pb-8">
        {/* One for each path: the way back to a talk must stay open when another page breaks. */}
        <Broken key={path}>
          <Suspense fallback={<Waiting />}>
            <Switch>
              <Route path={TALK_PATHS}>
                <Page title="Talk" open={isTalking || new URLSearchParams(location.search).has("engine")}>
                  <TalkPage />
                </Page>
              </Route>
              <Route path="/live">
                <Page title="Live calls">
                  <LivePage />
                </Page>
              </Route>
              <Route path="/login">
                <Page title="Log in" open>
                  <LoginPage />
                </Page>
              </Route>
              <Route>
                <Page title="Not found" open>
                  <h1 className="py-8 text-2xl font-semibold">There is no such page.</h1>
                  <a className="text-accent underline" href="/talk">
                    Talk to the agent
                  </a>
                </Page>
              </Route>
            </Switch>
          </Suspense>
        </Broken>
      </main>
    </div>
  );
}

/** A page with its title; those that are not `open` need a login where the server asks for one. */
function Page({ title, open = false, children }: { title: string; open?: boolean; children: ReactNode }) {
  const [path] = useLocation();
  const session = useQuery({ ...sessionQuery, enabled: !open });
  useEffect(() => {
    document.title = `${title} · pxbridge`;
  }, [title]);
  if (open) return children;
  if (session.data === undefined) {
    if (!session.isError) return <Waiting />;
    return (
      <Notice tone="bad" title="The server does not answer." live>
        <p>{session.error.message}</p>
        <Button onClick={() => void session.refetch()}>Try again</Button>
      </Notice>
    );
  }
  if (session.data.login && session.data.user === null) return <Redirect to={`/login?next=${encodeURIComponent(path)}`} replace />;
  return children;
}

function Waiting() {
  return (
    <p role="status" className="py-16 text-center text-soft">
      Loading…
    </p>
  );
}

function Header() {
  const [path] = useLocation();
  const { data: session } = useQuery({ ...sessionQuery, enabled: !new URLSearchParams(location.search).has("engine") });
  const isTalking = useTalkActive();
  const hasBridge = session === undefined || session.version !== "";
  const logOut = async () => {
    await remove("/api/session").catch(() => undefined);
    queryClient.clear();
    location.assign("/login");
  };
  const isTalk = TALK_PATHS.test(path);
  const talk = path === "/" ? "/" : "/talk";
  const link = (isHere: boolean) => ({
    className: classes("rounded-lg px-3 py-2 text-sm font-medium", isHere ? "bg-tint text-accent" : "text-soft hover:bg-raised hover:text-ink"),
    "aria-current": isHere ? ("page" as const) : undefined,
  });
  return (
    <header className="flex flex-wrap items-center gap-x-2 gap-y-1 py-3 sm:gap-x-4 sm:py-4">
      <span className="flex items-center gap-2 font-semibold">
        <Mark />
        pxbridge
      </span>
      <nav aria-label="Pages" className="flex gap-1">
        {isTalking ? (
          <Link href={talk} {...link(isTalk)}>
            {isTalk ? "Talk" : "Back to the talk"}
          </Link>
        ) : (
          // Not a change of route: the page to talk has a content policy of its own.
          <a href={talk} {...link(isTalk)}>
            Talk
          </a>
        )}
        {hasBridge && (
          <Link href="/live" {...link(path === "/live")}>
            Live
          </Link>
        )}
      </nav>
      <div className="ml-auto flex items-center gap-2">
        <ThemeChoice />
        {session?.user && (
          <Button onClick={() => void logOut()} title={`Logged in as ${session.user}`}>
            Log out
          </Button>
        )}
      </div>
    </header>
  );
}

function Mark() {
  return (
    <svg viewBox="0 0 32 32" className="size-7" aria-hidden="true">
      <rect width="32" height="32" rx="8" className="fill-accent" />
      <path d="M7 16h2M12 11v10M16 7v18M20 11v10M23 16h2" className="stroke-on-accent" strokeWidth="2.4" strokeLinecap="round" />
    </svg>
  );
}

const THEMES: Record<Theme, { label: string; next: Theme; path: string }> = {
  system: { label: "Theme: as the system", next: "light", path: "M4 5h16v11H4zM9 20h6M12 16v4" },
  light: { label: "Theme: light", next: "dark", path: "M12 8a4 4 0 100 8 4 4 0 000-8zM12 2v3M12 19v3M2 12h3M19 12h3M5 5l2 2M17 17l2 2M19 5l-2 2M5 19l2-2" },
  dark: { label: "Theme: dark", next: "system", path: "M20 14a8 8 0 01-10-10 8 8 0 1010 10z" },
};

function ThemeChoice() {
  const [theme, setTheme] = useTheme();
  const { label, next, path } = THEMES[theme];
  return (
    <button
      type="button"
      onClick={() => setTheme(next)}
      aria-label={label}
      title={label}
      className="grid size-10 place-items-center rounded-xl text-soft hover:bg-raised hover:text-ink"
    >
      <svg viewBox="0 0 24 24" className="size-5 fill-none stroke-current" strokeWidth="1.8" strokeLinecap="round" strokeLinejoin="round" aria-hidden="true">
        <path d={path} />
      </svg>
    </button>
  );
}
