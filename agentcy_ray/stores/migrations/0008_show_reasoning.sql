-- Whether the reasoning of an agent's model goes into the log of its runs.
ALTER TABLE agents ADD COLUMN show_reasoning boolean NOT NULL DEFAULT false;
