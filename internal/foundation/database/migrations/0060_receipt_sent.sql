-- Receipts by position: other servers get them in that order.
CREATE INDEX receipt_sent ON receipt (tenant, position);
