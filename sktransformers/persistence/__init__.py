"""A fitted estimator as a directory that anybody can open safely."""
