// The first page.
import { follow, refresh } from "./live.js";

follow((news) => news.list || news.runs.length > 0, () => refresh(["overview"]));
