/** Light, dark, or as the system has it. */

import { useState } from "react";
import { store, stored } from "./storage";

export type Theme = "system" | "light" | "dark";

const KEY = "pxbridge theme";

export function storedTheme(): Theme {
  const chosen = stored(KEY);
  return chosen === "light" || chosen === "dark" ? chosen : "system";
}

export function applyTheme(theme: Theme): void {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  store(KEY, theme === "system" ? null : theme);
}

export function useTheme(): [Theme, (theme: Theme) => void] {
  const [theme, setTheme] = useState(storedTheme);
  return [
    theme,
    (chosen) => {
      applyTheme(chosen);
      setTheme(chosen);
    },
  ];
}
