# Every action is somebody's, and can be found again by its request.
package agentcy

import rego.v1

deny contains "the subject has no user_id" if not is_text(input.subject.user_id)

deny contains "the context has no request_id" if not is_text(input.context.request_id)

is_text(value) if {
	is_string(value)
	value != ""
}
