"""Previews: pictures to judge a transform by."""
