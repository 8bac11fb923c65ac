import { expect, it } from "vitest";
import document from "../../openapi.json";
// @ts-expect-error a script without types
import { typesOf } from "../../scripts/api-types.mjs";
import types from "./schema.d.ts?raw";

it("the client's types are those of the server's document; if not: npm run types", () => {
  expect(types).toBe(typesOf(document));
});
