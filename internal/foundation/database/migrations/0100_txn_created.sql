-- SPDX-License-Identifier: Apache-2.0
-- Owned by room: old transaction ids are removed for all tenants at once.
DROP INDEX txn_created;
CREATE INDEX txn_created ON txn (created);
