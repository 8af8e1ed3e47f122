-- What is held for a backfill names it, so that whoever goes on with a killed one gives back at once
-- what its process held, and does not wait until that expires.

ALTER TABLE budget_reservations ADD COLUMN holder uuid;
CREATE INDEX budget_reservations_holder ON budget_reservations (holder) WHERE holder IS NOT NULL;
