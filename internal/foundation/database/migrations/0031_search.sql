-- SPDX-License-Identifier: Apache-2.0
-- Owned by timeline: an index of the words of messages, room names and topics that are not encrypted (docs/decisions/0030-search-index.md). weight is
-- how often the word stands in the text, in thousandths of its length.
CREATE TABLE search_word (
    tenant BIGINT NOT NULL,
    word TEXT NOT NULL,
    event BIGINT NOT NULL,
    room BIGINT NOT NULL,
    position BIGINT NOT NULL,
    weight BIGINT NOT NULL,
    PRIMARY KEY (tenant, word, event)
);
-- Up to which position a tenant's events are in the index.
CREATE TABLE search_progress (
    tenant BIGINT NOT NULL PRIMARY KEY,
    position BIGINT NOT NULL
);
