-- SPDX-License-Identifier: Apache-2.0
-- Owned by telematik/idp (central services, no tenant's data): challenges that were answered and codes that were redeemed, by their jti, until they
-- expire (ms since the epoch). Each counts once, at whichever node and also after a restart.
CREATE TABLE idp_used (
    token TEXT NOT NULL PRIMARY KEY,
    expires BIGINT NOT NULL
);
CREATE INDEX idp_used_expires ON idp_used (expires);
-- Owned by telematik/registration: how an organisation has proved itself for a messenger, and its administrator. proved: ms since the epoch.
-- admin is a user id, login what is typed at login; both are empty while there is no administrator.
CREATE TABLE registration_messenger (
    tenant BIGINT NOT NULL PRIMARY KEY,
    profession TEXT NOT NULL,
    proved BIGINT NOT NULL,
    admin TEXT NOT NULL,
    login TEXT NOT NULL
);
