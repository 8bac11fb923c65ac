/** Stands for a page that could not be shown, so that nobody looks at an empty window. */

import { Component, type ReactNode } from "react";
import { Button, Notice } from "./ui/parts";

export class Broken extends Component<{ children: ReactNode }, { problem: string | null }> {
  override state = { problem: null };

  static getDerivedStateFromError(error: unknown) {
    return { problem: error instanceof Error ? error.message : String(error) };
  }

  override render() {
    if (this.state.problem === null) return this.props.children;
    return (
      <>
        <h1 className="mb-4 text-2xl font-semibold">This page could not be shown</h1>
        <Notice tone="bad" title="The bridge may have been updated since the page was loaded." live>
          <p>Load it anew. A talk that goes on ends then.</p>
          <p className="text-xs wrap-anywhere text-soft">The browser says: {this.state.problem}</p>
          <Button onClick={() => location.reload()}>Load it anew</Button>
        </Notice>
      </>
    );
  }
}
