"""The mathematics: advantages, KL estimators, policy losses and reductions, as pure functions of tensors."""
