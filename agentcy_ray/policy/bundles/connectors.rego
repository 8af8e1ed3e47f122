# What a tool may do, by its effect. Built-in connectors are governed by their own permissions.
package agentcy.connectors

import rego.v1

deny contains msg if {
	governed
	input.resource.tool_effect == "destructive"
	not privileged
	msg := sprintf("%s is destructive: it takes role owner or admin", [input.resource.tool])
}

require_approval contains msg if {
	governed
	input.resource.tool_effect == "write"
	not privileged
	msg := sprintf("%s writes: somebody with role owner or admin has to approve it", [input.resource.tool])
}

governed if {
	input.resource.type == "tool"
	not input.resource.builtin
}

privileged if input.subject.role in {"owner", "admin"}
