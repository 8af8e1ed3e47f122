# Actions of the API that belong to owners and admins, and those that wait for business hours.
package agentcy.api

import rego.v1

reserved := {"user.write", "policy.write", "engine.migrate"}

deny contains msg if {
	is_reserved(input.action)
	not input.subject.role in {"owner", "admin"}
	msg := sprintf("%s takes role owner or admin", [input.action])
}

is_reserved(action) if startswith(action, "org.")

is_reserved(action) if action in reserved

# business_hours: {"tz": "Europe/Zurich", "days": ["mon", …], "from": "08:00", "to": "18:00"}
deny contains msg if {
	input.action == "source.delete"
	hours := data.settings.business_hours
	not open_now(hours)
	msg := sprintf("sources are deleted in business hours only (%s to %s, %s)", [hours.from, hours.to, hours.tz])
}

open_now(hours) if {
	now := time.parse_rfc3339_ns(input.env.now)
	day := lower(substring(time.weekday([now, hours.tz]), 0, 3))
	day in {lower(substring(name, 0, 3)) | some name in hours.days}
	clock := time.clock([now, hours.tz])
	within(sprintf("%02d:%02d", [clock[0], clock[1]]), hours.from, hours.to)
}

within(at, from, to) if {
	from <= to
	at >= from
	at < to
}

# A night shift: from is later than to.
within(at, from, to) if {
	from > to
	at >= from
}

within(at, from, to) if {
	from > to
	at < to
}
