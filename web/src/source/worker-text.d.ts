/** Built by build.mjs: the worker's script, as text. */
declare module "worker:*" {
  const text: string;
  export default text;
}
