-- SPDX-License-Identifier: Apache-2.0
-- Owned by telematik/directory (central services, no tenant's data): FHIR resources as JSON and what they are found by.
-- hidden: not shown to insured people. sort: the folded name, by bytes so that both databases order alike.
CREATE TABLE directory_resource (
    nid BIGINT NOT NULL PRIMARY KEY,
    type TEXT NOT NULL,
    id TEXT NOT NULL,
    version BIGINT NOT NULL,
    updated BIGINT NOT NULL,
    owner TEXT NOT NULL,
    active BOOLEAN NOT NULL,
    hidden BOOLEAN NOT NULL,
    sort BYTEA NOT NULL,
    json TEXT NOT NULL
);
CREATE UNIQUE INDEX directory_resource_id ON directory_resource (type, id);
CREATE INDEX directory_resource_owner ON directory_resource (owner, type);
CREATE INDEX directory_resource_sort ON directory_resource (type, sort, nid);
-- Which resource refers to which, so that a change of the target finds the entries to index anew.
CREATE TABLE directory_reference (
    nid BIGINT NOT NULL,
    element TEXT NOT NULL,
    target TEXT NOT NULL,
    PRIMARY KEY (nid, element, target)
);
CREATE INDEX directory_reference_target ON directory_reference (target);
-- Search values of the entries that searches begin with, those of linked resources included. value is folded; it begins at a word's start.
CREATE TABLE directory_string (
    nid BIGINT NOT NULL,
    param TEXT NOT NULL,
    value BYTEA NOT NULL,
    PRIMARY KEY (nid, param, value)
);
CREATE INDEX directory_string_value ON directory_string (param, value);
CREATE TABLE directory_token (
    nid BIGINT NOT NULL,
    param TEXT NOT NULL,
    system TEXT NOT NULL,
    code TEXT NOT NULL,
    PRIMARY KEY (nid, param, system, code)
);
CREATE INDEX directory_token_code ON directory_token (param, code);
-- Coordinates in millionths of a degree.
CREATE TABLE directory_position (
    nid BIGINT NOT NULL,
    latitude BIGINT NOT NULL,
    longitude BIGINT NOT NULL,
    PRIMARY KEY (nid, latitude, longitude)
);
CREATE INDEX directory_position_place ON directory_position (latitude, longitude);
