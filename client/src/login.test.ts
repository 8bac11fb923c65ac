import { describe, expect, it } from "vitest";
import { nextPage } from "./login";

describe("after the login", () => {
  it("goes to a page of this server only", () => {
    expect(nextPage("?next=%2Flive")).toBe("/live");
    for (const next of ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "/login", ""]) {
      expect(nextPage(`?next=${encodeURIComponent(next)}`)).toBe("/talk");
    }
  });
});
