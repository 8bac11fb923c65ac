import { describe, expect, it } from "vitest";
import { RequestFailed } from "./api/client";
import { nextPage, whyNot } from "./login";

describe("a login that fails", () => {
  it("says what to do", () => {
    expect(whyNot(new RequestFailed(401, "authentication required"))).toBe("User or password is wrong.");
    expect(whyNot(new RequestFailed(429, "too many wrong logins"))).toMatch("Wait for ten seconds");
    expect(whyNot(new RequestFailed(0, "The server does not answer."))).toBe("The server does not answer.");
  });
});

describe("after the login", () => {
  it("goes to a page of this server only", () => {
    expect(nextPage("?next=%2Flive")).toBe("/live");
    for (const next of ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "/login", ""]) {
      expect(nextPage(`?next=${encodeURIComponent(next)}`)).toBe("/talk");
    }
  });
});
