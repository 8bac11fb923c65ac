import { describe, expect, it } from "vitest";
import { clock } from "../ui/format";
import { parseNumbers } from "./calls";

describe("the console", () => {
  it("reads phone numbers as people write them", () => {
    expect(parseNumbers(" +91 80-1234 5678, (022) 123;\n 112 ,")).toEqual(["+918012345678", "022123", "112"]);
    expect(parseNumbers("  ")).toEqual([]);
  });

  it("writes durations", () => {
    expect([0, 59.9, 75, 3600, -2].map(clock)).toEqual(["0:00", "0:59", "1:15", "1:00:00", "0:00"]);
  });
});
