// Command manifests checks what deploy/ has for compose and Kubernetes: that it
// is read by the libraries of those, strictly, and that what the parts say of
// one another is so.
//
//	go run . ../../deploy
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/compose-spec/compose-go/v2/cli"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	core "k8s.io/api/core/v1"
	policy "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: manifests DIR, where DIR is deploy/")
		os.Exit(2)
	}
	dir := os.Args[1]
	if err := errors.Join(checkCompose(filepath.Join(dir, "compose.yaml")), checkKubernetes(filepath.Join(dir, "kubernetes"))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("compose.yaml and kubernetes/: ok")
}

// checkCompose loads a compose file as docker compose does, and looks for the
// files that it mounts.
func checkCompose(name string) error {
	options, err := cli.NewProjectOptions([]string{name}, cli.WithResolvedPaths(true))
	if err != nil {
		return err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, s := range project.Services {
		for _, v := range s.Volumes {
			if _, statErr := os.Stat(v.Source); v.Type == "bind" && statErr != nil {
				err = errors.Join(err, fmt.Errorf("%s: service %s: %w", name, s.Name, statErr))
			}
		}
	}
	return err
}

// checkKubernetes builds a kustomization and decodes what it makes, strictly.
func checkKubernetes(dir string) error {
	made, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	var deployment apps.Deployment
	var service core.Service
	var config core.ConfigMap
	var budget policy.PodDisruptionBudget
	var scaler autoscaling.HorizontalPodAutoscaler
	var monitor monitoring.ServiceMonitor
	into := map[string]any{
		"Deployment": &deployment, "Service": &service, "ConfigMap": &config,
		"PodDisruptionBudget": &budget, "HorizontalPodAutoscaler": &scaler, "ServiceMonitor": &monitor,
	}
	for _, r := range made.Resources() {
		text, err := r.AsYAML()
		if err != nil {
			return err
		}
		to, known := into[r.GetKind()]
		if !known {
			return fmt.Errorf("%s: a %s, which is not checked", dir, r.GetKind())
		}
		if err := yaml.UnmarshalStrict(bytes.TrimSpace(text), to); err != nil {
			return fmt.Errorf("%s: %s %s: %w", dir, r.GetKind(), r.GetName(), err)
		}
		delete(into, r.GetKind())
	}
	for kind := range into {
		err = errors.Join(err, fmt.Errorf("%s: there is no %s", dir, kind))
	}
	return errors.Join(err, checkTogether(&deployment, &service, &config, &budget, &scaler, &monitor))
}

// checkTogether checks what the parts say of one another.
func checkTogether(d *apps.Deployment, s *core.Service, config *core.ConfigMap, b *policy.PodDisruptionBudget, h *autoscaling.HorizontalPodAutoscaler, m *monitoring.ServiceMonitor) (err error) { //nolint:revive // one of each kind that the folder has
	must := func(ok bool, format string, args ...any) {
		if !ok {
			err = errors.Join(err, fmt.Errorf("kubernetes: "+format, args...))
		}
	}
	pods := labels.Set(d.Spec.Template.Labels)
	selects := func(selector *metav1.LabelSelector, of labels.Set) bool {
		parsed, parseErr := metav1.LabelSelectorAsSelector(selector)
		return parseErr == nil && !parsed.Empty() && parsed.Matches(of)
	}
	must(selects(d.Spec.Selector, pods), "the Deployment does not select its pods")
	must(len(s.Spec.Selector) > 0 && labels.SelectorFromSet(s.Spec.Selector).Matches(pods), "the Service does not select the pods")
	must(selects(b.Spec.Selector, pods), "the PodDisruptionBudget does not select the pods")
	must(selects(&m.Spec.Selector, s.Labels), "the ServiceMonitor does not select the Service")
	must(h.Spec.ScaleTargetRef.Name == d.Name, "the HorizontalPodAutoscaler scales %q", h.Spec.ScaleTargetRef.Name)
	if len(d.Spec.Template.Spec.Containers) != 1 {
		return errors.Join(err, errors.New("kubernetes: the pods have not one container"))
	}
	container := &d.Spec.Template.Spec.Containers[0]
	ports := map[string]bool{}
	for _, p := range container.Ports {
		ports[p.Name] = true
	}
	for _, p := range s.Spec.Ports {
		must(ports[p.TargetPort.String()], "the Service's port %s leads to %s, which the container does not have", p.Name, p.TargetPort.String())
	}
	for _, p := range []*core.Probe{container.StartupProbe, container.ReadinessProbe, container.LivenessProbe} {
		must(p != nil && p.HTTPGet != nil && ports[p.HTTPGet.Port.String()], "a probe is missing, or asks a port that the container does not have")
	}
	sc, pod := container.SecurityContext, d.Spec.Template.Spec.SecurityContext
	must(sc != nil && sc.ReadOnlyRootFilesystem != nil && *sc.ReadOnlyRootFilesystem, "the root file system can be written to")
	must(pod != nil && pod.RunAsNonRoot != nil && *pod.RunAsNonRoot, "the pods may run as root")
	must(len(d.Spec.Template.Spec.Volumes) == 1 && d.Spec.Template.Spec.Volumes[0].ConfigMap != nil && d.Spec.Template.Spec.Volumes[0].ConfigMap.Name == config.Name, "the ConfigMap %s is not mounted", config.Name)
	return err
}
