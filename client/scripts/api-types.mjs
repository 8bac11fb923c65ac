/**
 * Writes `src/api/schema.d.ts`: the shapes of the server's JSON, from the OpenAPI document that its own models make.
 *
 * Only what those models use of JSON Schema is known here; anything else is an error, not a guess.
 */

import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const DOCUMENT = new URL("../openapi.json", import.meta.url);
const TYPES = new URL("../src/api/schema.d.ts", import.meta.url);

/** The declarations of a document's schemas. */
export function typesOf(document) {
  const declarations = Object.entries(document.components.schemas).map(([name, schema]) => {
    const comment = schema.description ? `/** ${schema.description} */\n` : "";
    if (schema.type !== "object") return `${comment}export type ${name} = ${typeOf(schema)};\n`;
    return `${comment}export interface ${name} ${membersOf(schema)}\n`;
  });
  return `// Written by \`npm run types\` from openapi.json, which the server's models make. Do not edit.\n\n${declarations.join("\n")}`;
}

function membersOf(schema) {
  const required = new Set(schema.required ?? []);
  const members = Object.entries(schema.properties ?? {}).map(([name, member]) => {
    const comment = member.description ? `  /** ${member.description} */\n` : "";
    return `${comment}  ${name}${required.has(name) ? "" : "?"}: ${typeOf(member)};\n`;
  });
  return `{\n${members.join("")}}`;
}

function typeOf(schema) {
  if (schema.$ref) return schema.$ref.replace("#/components/schemas/", "");
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" | ");
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  switch (schema.type) {
    case "string":
    case "boolean":
    case "null":
      return schema.type;
    case "integer":
    case "number":
      return "number";
    case "array": {
      const item = typeOf(schema.items);
      return item.includes("|") ? `(${item})[]` : `${item}[]`;
    }
    case "object":
      if (schema.properties) return membersOf(schema);
      return `Record<string, ${typeof schema.additionalProperties === "object" ? typeOf(schema.additionalProperties) : "unknown"}>`;
    default:
      throw new Error(`no type for ${JSON.stringify(schema)}`);
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  writeFileSync(TYPES, typesOf(JSON.parse(readFileSync(DOCUMENT, "utf-8"))));
}
