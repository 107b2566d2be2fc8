// Lists that come in pages.

/** All items of a list, page by page. */
export async function everyPage<P extends { nextPageToken: string }, T>(
  fetch: (request: { pageToken: string }) => Promise<P>,
  itemsOf: (page: P) => readonly T[],
): Promise<T[]> {
  const found: T[] = [];
  let pageToken = "";
  do {
    const page = await fetch({ pageToken });
    found.push(...itemsOf(page));
    pageToken = page.nextPageToken;
  } while (pageToken);
  return found;
}
