# Tools that a viewer never reaches, whatever their declared effect. The organisation's setting
# `dangerous_tools` replaces the list below.
package agentcy.tools

import rego.v1

shipped := {
	"kubernetes.delete_pod",
	"remote_execution.exec_command",
	"github.merge_pull",
	"aws.ec2_stop_instance",
}

listed(tool) if tool in data.settings.dangerous_tools

listed(tool) if {
	not data.settings.dangerous_tools
	tool in shipped
}

deny contains msg if {
	input.resource.type == "tool"
	input.subject.role == "viewer"
	listed(input.resource.tool)
	msg := sprintf("%s is on the list of dangerous tools: a viewer may not call it", [input.resource.tool])
}
