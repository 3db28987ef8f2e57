-- SPDX-License-Identifier: Apache-2.0
-- Owned by telematik/directory (central services, no tenant's data): an inverted index in place of a row per entry and word.
-- directory_clock has one row. Whoever changes the index locks it; version counts the changes, docs the numbers given to entries so far, format says
-- which program's search parameters the index holds, 0 that it is empty.
CREATE TABLE directory_clock (
    one INTEGER NOT NULL PRIMARY KEY,
    version BIGINT NOT NULL,
    docs BIGINT NOT NULL,
    format BIGINT NOT NULL
);
INSERT INTO directory_clock (one, version, docs, format) VALUES (1, 0, 0, 0);
-- What searches filter and sort entries by, and which change it is of, so that every node reads only what it has not seen.
-- state: the root's number in the lowest two bits, 4 active, 8 hidden, 16 deleted. positions: pairs of 32-bit millionths of a degree.
CREATE TABLE directory_entry (
    doc INTEGER NOT NULL PRIMARY KEY,
    nid BIGINT NOT NULL,
    version BIGINT NOT NULL,
    state BIGINT NOT NULL,
    positions BYTEA NOT NULL,
    sort BYTEA NOT NULL
);
CREATE INDEX directory_entry_version ON directory_entry (version, doc);
-- The texts of an entry, for searches by several words in a row or by a part of one.
CREATE TABLE directory_text (
    doc INTEGER NOT NULL PRIMARY KEY,
    texts BYTEA NOT NULL
);
-- Which entries of a block of 16,384 numbers have a value: 16-bit offsets, in no order.
CREATE TABLE directory_posting (
    param TEXT NOT NULL,
    value BYTEA NOT NULL,
    block BIGINT NOT NULL,
    docs BYTEA NOT NULL,
    PRIMARY KEY (param, value, block)
);
-- Entries that were stored before; they are indexed when the directory starts next.
CREATE TABLE directory_unindexed (
    nid BIGINT NOT NULL PRIMARY KEY
);
INSERT INTO directory_unindexed (nid) SELECT nid FROM directory_resource WHERE type IN ('PractitionerRole', 'HealthcareService', 'Endpoint');
DROP TABLE directory_string;
DROP TABLE directory_token;
DROP TABLE directory_position;
DROP INDEX directory_resource_sort;
DROP INDEX directory_resource_entry;
ALTER TABLE directory_resource DROP COLUMN active;
ALTER TABLE directory_resource DROP COLUMN hidden;
ALTER TABLE directory_resource DROP COLUMN sort;
-- An entry's number; 0: none.
ALTER TABLE directory_resource ADD COLUMN doc BIGINT NOT NULL DEFAULT 0;
-- References are found by where they lead; where they come from is known from the resource.
CREATE TABLE directory_link (
    target TEXT NOT NULL,
    element TEXT NOT NULL,
    nid BIGINT NOT NULL,
    PRIMARY KEY (target, element, nid)
);
INSERT INTO directory_link (target, element, nid) SELECT target, element, nid FROM directory_reference;
DROP TABLE directory_reference;
