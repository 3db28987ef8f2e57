-- SPDX-License-Identifier: Apache-2.0
-- Owned by telematik/directory (central services, no tenant's data).
-- What was changed, when and by whom: editor is an owner's Telematik-ID, empty for the directory itself. Kept six months.
CREATE TABLE directory_log (
    nid BIGINT NOT NULL PRIMARY KEY,
    time BIGINT NOT NULL,
    operation TEXT NOT NULL,
    type TEXT NOT NULL,
    id TEXT NOT NULL,
    telematik_id TEXT NOT NULL,
    editor TEXT NOT NULL
);
CREATE INDEX directory_log_owner ON directory_log (telematik_id, time);
CREATE INDEX directory_log_time ON directory_log (time);
-- Outcomes of decoupled sign-ins until they are fetched: id is a digest, token is sealed.
CREATE TABLE directory_signin (
    id TEXT NOT NULL PRIMARY KEY,
    token TEXT NOT NULL,
    expires BIGINT NOT NULL
);
-- Owned by telematik/fedlist: hosts to which a domain's well-known file may redirect, separated by commas.
ALTER TABLE federation_domain ADD COLUMN redirect TEXT NOT NULL DEFAULT '';
