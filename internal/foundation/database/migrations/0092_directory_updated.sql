-- SPDX-License-Identifier: Apache-2.0
-- Owned by telematik/directory: when an entry itself changed last, in milliseconds, for searches by _lastUpdated.
ALTER TABLE directory_entry ADD COLUMN updated BIGINT NOT NULL DEFAULT 0;
UPDATE directory_entry SET updated = COALESCE((SELECT r.updated FROM directory_resource r WHERE r.nid = directory_entry.nid), 0);
