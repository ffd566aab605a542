/** What the worker's script runs. */

import { type ToWorker, serve } from "./worker";

const scope = self as unknown as {
  postMessage(message: unknown, transfer: Transferable[]): void;
  onmessage: ((event: MessageEvent<ToWorker>) => void) | null;
};
const receive = serve((message, transfer) => scope.postMessage(message, transfer));
scope.onmessage = ({ data }) => receive(data);
