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
      <Notice tone="bad" title="This page could not be shown." live>
        <p>The bridge may have been updated since the page was loaded. A talk that goes on ends when it is loaded anew.</p>
        <p className="text-xs text-soft">The browser says: {this.state.problem}</p>
        <Button onClick={() => location.reload()}>Load it anew</Button>
      </Notice>
    );
  }
}
