// Istio's own programs that write its rules into a Pod: that of its init container, and with the one argument "ambient"
// that of its CNI plugin, which is a library there, for the network namespace in which it is called.
package main

import (
	"net/netip"
	"os"

	cni "istio.io/istio/cni/pkg/config"
	"istio.io/istio/cni/pkg/iptables"
	"istio.io/istio/pkg/log"
	"istio.io/istio/tools/istio-iptables/pkg/cmd"
	"istio.io/istio/tools/istio-iptables/pkg/dependencies"
)

// Where the kubelet's probes come from, as the plugin's chart has it.
const (
	probes  = "169.254.7.127"
	probes6 = "fd16:9254:7127:1337:ffff:ffff:ffff:ffff"
)

func main() {
	write := cmd.GetCommand(log.DefaultOptions()).Execute
	if len(os.Args) == 2 && os.Args[1] == "ambient" {
		write = ambient
	}
	if write() != nil { // which has been said
		os.Exit(1)
	}
}

func ambient() error {
	config := &cni.AmbientConfig{
		EnableIPv6:             true,
		HostProbeSNATAddress:   netip.MustParseAddr(probes),
		HostProbeV6SNATAddress: netip.MustParseAddr(probes6),
	}
	system := &dependencies.RealDependencies{UsePodScopedXtablesLock: true}
	_, pod, err := iptables.NewIptablesConfigurator(config, config, system, system, iptables.RealNlDeps())
	if err == nil {
		err = pod.CreateInpodRules(log.FindScope(log.DefaultScopeName), cni.PodLevelOverrides{})
	}
	if err != nil {
		log.Error(err)
	}
	return err
}
