/** Levels, drawn by animation frames: they change too often for React. */

import { useEffect, useRef } from "react";
import type { Meters } from "../audio/engine.worker";
import type { TalkSession } from "../audio/talk-session";
import { classes } from "../ui/parts";

type LevelName = "heardLevel" | "playedLevel";

const QUIETEST_DB = -60;
/** How much of a fall is shown in one frame: a meter that flickers cannot be read. */
const FALL = 0.06;

/** A level as a share of the meter's length, by decibels. */
export function shareOf(level: number): number {
  if (level <= 0) return 0;
  return Math.min(1, Math.max(0, 1 - (20 * Math.log10(level)) / QUIETEST_DB));
}

/** Calls back with the level's share before each picture, while the component is there. */
function useLevel(session: TalkSession, of: LevelName, draw: (share: number) => void): void {
  const latest = useRef(draw);
  latest.current = draw;
  useEffect(() => {
    let shown = 0;
    let frame = 0;
    const next = () => {
      const meters: Meters | null = session.meters;
      shown = Math.max(meters ? shareOf(meters[of]) : 0, shown - FALL);
      latest.current(shown);
      frame = requestAnimationFrame(next);
    };
    next();
    return () => cancelAnimationFrame(frame);
  }, [session, of]);
}

export function LevelMeter({ session, of, label, dimmed = false }: { session: TalkSession; of: LevelName; label: string; dimmed?: boolean }) {
  const bar = useRef<HTMLDivElement>(null);
  useLevel(session, of, (share) => {
    if (bar.current) bar.current.style.scale = `${share.toFixed(3)} 1`;
  });
  return (
    <div>
      <p className="mb-1 text-xs text-soft">{label}</p>
      <div aria-hidden="true" className="h-2 overflow-hidden rounded-full bg-raised">
        <div ref={bar} className={classes("h-full origin-left scale-x-0 rounded-full", dimmed ? "bg-edge" : "bg-accent")} />
      </div>
    </div>
  );
}

/** The agent: a disc that grows with its voice, in a ring that grows with the caller's. */
export function Presence({ session, active }: { session: TalkSession; active: boolean }) {
  const disc = useRef<HTMLDivElement>(null);
  const ring = useRef<HTMLDivElement>(null);
  useLevel(session, "playedLevel", (share) => {
    if (disc.current) disc.current.style.scale = (0.7 + 0.3 * share).toFixed(3);
  });
  useLevel(session, "heardLevel", (share) => {
    if (ring.current) ring.current.style.scale = (0.8 + 0.2 * share).toFixed(3);
  });
  return (
    <div aria-hidden="true" className={classes("relative mx-auto grid size-36 place-items-center transition-opacity motion-reduce:hidden", !active && "opacity-40")}>
      <div ref={ring} className="absolute inset-0 scale-80 rounded-full border-2 border-accent/50" />
      <div ref={disc} className="size-28 scale-70 rounded-full bg-accent" />
    </div>
  );
}
