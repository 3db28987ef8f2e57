-- SPDX-License-Identifier: Apache-2.0
-- Owned by oauth: whom a tenant's identity provider means. A subject is somebody for ever; names and addresses at the provider may change hands.
CREATE TABLE provider_subject (
    tenant BIGINT NOT NULL,
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    user_id TEXT NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (tenant, issuer, subject)
);
CREATE INDEX provider_subject_user ON provider_subject (tenant, user_id);
-- Browsers that are at the identity provider: state and cookie are hashes, verifier and nonce belong to the request, target is the page to come back to.
CREATE TABLE provider_visit (
    tenant BIGINT NOT NULL,
    state BYTEA NOT NULL,
    cookie BYTEA NOT NULL,
    nonce TEXT NOT NULL,
    verifier TEXT NOT NULL,
    target TEXT NOT NULL,
    expires BIGINT NOT NULL,
    PRIMARY KEY (tenant, state)
);
CREATE INDEX provider_visit_expires ON provider_visit (tenant, expires);
