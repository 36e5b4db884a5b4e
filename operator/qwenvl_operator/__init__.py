"""The operator: watches QwenVLDeployment resources and reconciles the pods that serve the model."""
