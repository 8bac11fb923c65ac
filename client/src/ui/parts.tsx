/** Small parts that every page uses. They only render. */

import { RadioGroup, Switch as RadixSwitch } from "radix-ui";
import { type ButtonHTMLAttributes, type ReactNode, useId, useLayoutEffect, useRef } from "react";

export function classes(...names: (string | false | null | undefined)[]): string {
  return names.filter(Boolean).join(" ");
}

type Look = "main" | "plain" | "danger";

const LOOKS: Record<Look, string> = {
  main: "bg-accent text-on-accent border-transparent hover:brightness-110",
  plain: "bg-panel text-ink border-edge hover:bg-raised",
  danger: "bg-danger text-on-danger border-transparent hover:brightness-110",
};

export function Button({
  look = "plain",
  large = false,
  className,
  ...rest
}: ButtonHTMLAttributes<HTMLButtonElement> & { look?: Look; large?: boolean }) {
  return (
    <button
      type="button"
      className={classes(
        "inline-flex items-center justify-center gap-2 rounded-xl border font-medium transition",
        "disabled:cursor-not-allowed disabled:opacity-60",
        large ? "min-h-13 px-6 text-lg" : "min-h-10 px-4 text-sm",
        LOOKS[look],
        className,
      )}
      {...rest}
    />
  );
}

export function Panel({ title, aside, children, className }: { title?: string; aside?: ReactNode; children: ReactNode; className?: string }) {
  const id = useId();
  return (
    <section aria-labelledby={title ? id : undefined} className={classes("rounded-2xl border border-line bg-panel p-4 sm:p-5", className)}>
      {title && (
        <div className="mb-3 flex flex-wrap items-baseline justify-between gap-2">
          <h2 id={id} className="text-base font-semibold">
            {title}
          </h2>
          {aside && <div className="text-sm text-soft">{aside}</div>}
        </div>
      )}
      {children}
    </section>
  );
}

type Tone = "plain" | "good" | "warn" | "bad";

const TONES: Record<Tone, string> = {
  plain: "bg-raised text-soft",
  good: "bg-tint text-accent",
  warn: "bg-warn-tint text-warn",
  bad: "bg-danger-tint text-danger",
};

/** `wraps`: for what somebody else has named, at any length. */
export function Badge({ tone = "plain", wraps = false, children }: { tone?: Tone; wraps?: boolean; children: ReactNode }) {
  return (
    <span className={classes("inline-block rounded-full px-2 py-0.5 text-xs font-medium", wraps ? "max-w-full break-words" : "whitespace-nowrap", TONES[tone])}>
      {children}
    </span>
  );
}

/** A message that stands in the page. `live` ones are read out when they appear. */
export function Notice({ tone, title, children, live = false }: { tone: Tone; title: string; children?: ReactNode; live?: boolean }) {
  return (
    <div role={live ? "alert" : undefined} className={classes("rounded-xl p-4 text-sm", TONES[tone])}>
      <p className="font-semibold">{title}</p>
      {children && <div className="mt-1 space-y-1 text-ink">{children}</div>}
    </div>
  );
}

export function Toggle({ label, hint, checked, onChange }: { label: string; hint?: string; checked: boolean; onChange: (checked: boolean) => void }) {
  const id = useId();
  return (
    <div className="flex items-center justify-between gap-4">
      <div>
        <label htmlFor={id} className="text-sm font-medium">
          {label}
        </label>
        {hint && (
          <p id={`${id}-hint`} className="text-xs text-soft">
            {hint}
          </p>
        )}
      </div>
      <RadixSwitch.Root
        id={id}
        checked={checked}
        onCheckedChange={onChange}
        aria-describedby={hint ? `${id}-hint` : undefined}
        className="relative h-6 w-11 shrink-0 rounded-full border border-edge bg-raised transition data-[state=checked]:border-accent data-[state=checked]:bg-accent"
      >
        <RadixSwitch.Thumb className="block size-4.5 translate-x-0.5 rounded-full bg-edge transition data-[state=checked]:translate-x-5.5 data-[state=checked]:bg-on-accent" />
      </RadixSwitch.Root>
    </div>
  );
}

/** Cards of which one is chosen; arrow keys move between them. */
export function CardGroup({ label, value, onChange, className, children }: { label: string; value: string; onChange: (value: string) => void; className?: string; children: ReactNode }) {
  return (
    <RadioGroup.Root aria-label={label} value={value} onValueChange={onChange} className={className}>
      {children}
    </RadioGroup.Root>
  );
}

export function Card({ value, className, children }: { value: string; className?: string; children: ReactNode }) {
  return (
    <RadioGroup.Item
      value={value}
      className={classes(
        "rounded-xl border border-line bg-panel text-left transition hover:border-edge",
        "data-[state=checked]:border-accent data-[state=checked]:bg-tint data-[state=checked]:ring-1 data-[state=checked]:ring-accent",
        className,
      )}
    >
      {children}
    </RadioGroup.Item>
  );
}

export const FIELD = "w-full rounded-xl border border-edge bg-panel px-3 text-sm text-ink placeholder:text-soft";

export function Field({ label, children }: { label: string; children: (id: string) => ReactNode }) {
  const id = useId();
  return (
    <div>
      <label htmlFor={id} className="mb-1 block text-sm font-medium">
        {label}
      </label>
      {children(id)}
    </div>
  );
}

/** The browser's own modal dialog: it keeps the focus, and Escape closes it. */
export function Dialog({ title, onClose, children }: { title: string; onClose: () => void; children: ReactNode }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const id = useId();
  // Before React takes the dialog out of the page, so that the focus goes back to where it came from.
  useLayoutEffect(() => {
    const shown = dialog.current;
    if (shown && !shown.open) shown.showModal();
    return () => shown?.close();
  }, []);
  return (
    <dialog
      ref={dialog}
      aria-labelledby={id}
      onCancel={(event) => {
        event.preventDefault();
        onClose();
      }}
      className="m-auto w-[min(28rem,calc(100vw-2rem))] rounded-2xl border border-line bg-panel p-5 shadow-xl"
    >
      <h2 id={id} className="text-lg font-semibold wrap-anywhere">
        {title}
      </h2>
      {children}
    </dialog>
  );
}
