// SPDX-License-Identifier: Apache-2.0

// The messenger in a browser's page: the test calls konsilDo with commands and hears what is said to konsilSay.

import { serve } from "./client.mjs";

globalThis.konsilDo = serve((line) => globalThis.konsilSay(line));
